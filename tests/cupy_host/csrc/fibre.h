/* A fibre: a stack of its own and a way to switch to it and back. Cheap enough (some nanoseconds)
 * that every CUDA thread gets one. */
#ifndef CUPY_HOST_FIBRE_H
#define CUPY_HOST_FIBRE_H

#include <stdint.h>

#if defined(__x86_64__) && !defined(CUPY_HOST_UCONTEXT)

typedef void *fibre_context; /* a stack pointer; the registers lie on that stack */

/* Saves the callee-saved registers, stores the stack pointer in *from, goes on at `to`. */
void host_fibre_switch(fibre_context *from, fibre_context to);
__asm__(".text\n.globl host_fibre_switch\n.type host_fibre_switch,@function\n"
        "host_fibre_switch:\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp, (%rdi)\n  movq %rsi, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
        "  ret\n.size host_fibre_switch,.-host_fibre_switch\n");

static inline void fibre_switch(fibre_context *from, fibre_context *to) {
    host_fibre_switch(from, *to);
}

/* The first switch to the fibre "returns" into `start`; `start` itself never returns. */
static inline void fibre_prepare(fibre_context *fibre, char *stack, uint64_t size,
                                 void (*start)(void)) {
    uint64_t *top = (uint64_t *)(((uint64_t)stack + size) & ~(uint64_t)15);
    *--top = 0; /* `start` sees the alignment that a call would have given it */
    *--top = (uint64_t)start;
    for (int i = 0; i < 6; i++) *--top = 0;
    *fibre = top;
}

#else /* any other processor: slower, because swapcontext saves the signal mask */

#include <ucontext.h>
typedef ucontext_t fibre_context;

static inline void fibre_switch(fibre_context *from, fibre_context *to) { swapcontext(from, to); }

static inline void fibre_prepare(fibre_context *fibre, char *stack, uint64_t size,
                                 void (*start)(void)) {
    getcontext(fibre);
    fibre->uc_stack.ss_sp = stack;
    fibre->uc_stack.ss_size = size;
    fibre->uc_link = 0;
    makecontext(fibre, start, 0);
}

#endif
#endif
