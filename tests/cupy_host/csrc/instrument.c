/* The compiler writes a call before every memory access of a kernel (-fsanitize=thread, of which
 * only these calls are used, never its library): here they become checks. And: where a loaded
 * shared object lies. */
#define _GNU_SOURCE
#include "core.h"

#include <link.h>

static inline void checked(void *address, unsigned size, int is_write) {
    if ((uint64_t)address & (size - 1)) host_abort(HOST_MISALIGNED, (uint64_t)address, size,
                                                   is_write, -1);
    host_check(address, size, is_write);
}

#define ALIGNED(size)                                                          \
    void __tsan_read##size(void *a) { checked(a, size, 0); }                   \
    void __tsan_write##size(void *a) { checked(a, size, 1); }                  \
    void __tsan_volatile_read##size(void *a) { checked(a, size, 0); }          \
    void __tsan_volatile_write##size(void *a) { checked(a, size, 1); }         \
    void __tsan_unaligned_read##size(void *a) { host_check(a, size, 0); }      \
    void __tsan_unaligned_write##size(void *a) { host_check(a, size, 1); }

ALIGNED(1)
ALIGNED(2)
ALIGNED(4)
ALIGNED(8)
ALIGNED(16)

void __tsan_read_range(void *a, unsigned long size) { host_check(a, (unsigned)size, 0); }
void __tsan_write_range(void *a, unsigned long size) { host_check(a, (unsigned)size, 1); }
void __tsan_vptr_update(void **a, void *value) { (void)a, (void)value; }
void __tsan_vptr_read(void **a) { (void)a; }
void __tsan_func_entry(void *caller) { (void)caller; }
void __tsan_func_exit(void) {}
void __tsan_init(void) {}

struct search { uint64_t inside, low, high, tls, tls_size; };

static int visit(struct dl_phdr_info *info, size_t size, void *data) {
    struct search *s = data;
    uint64_t low = UINT64_MAX, high = 0, tls_size = 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        uint64_t start = info->dlpi_addr + p->p_vaddr;
        if (p->p_type == PT_TLS) tls_size = p->p_memsz;
        if (p->p_type != PT_LOAD) continue;
        if (start < low) low = start;
        if (start + p->p_memsz > high) high = start + p->p_memsz;
    }
    if (s->inside < low || s->inside >= high) return 0;
    s->low = low, s->high = high, s->tls_size = tls_size;
    if (size >= offsetof(struct dl_phdr_info, dlpi_tls_data) + sizeof(void *))
        s->tls = (uint64_t)info->dlpi_tls_data;
    return 1;
}

int host_image(const void *inside, uint64_t *low, uint64_t *high, uint64_t *tls,
               uint64_t *tls_size) {
    struct search s = {(uint64_t)inside, 0, 0, 0, 0};
    if (!dl_iterate_phdr(visit, &s)) return 1;
    *low = s.low, *high = s.high, *tls = s.tls, *tls_size = s.tls_size;
    return 0;
}
