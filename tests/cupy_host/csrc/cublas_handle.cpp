/* Handles, and a refusal by name for every other routine that CuPy is linked against. */
#include "cublas.h"

extern "C" {
int (*host_blas_report)(const BlasReport *);
int (*host_blas_create)(void);
void (*host_blas_captured)(int);
void (*host_blas_refuse)(const char *);

int cublasCreate_v2(Handle **h) {
    *h = new Handle{host_blas_create(), 0, 0, nullptr};
    return SUCCESS;
}
int cublasDestroy_v2(Handle *h) {
    delete h;
    return SUCCESS;
}
int cublasGetVersion_v2(Handle *, int *version) {
    *version = 120900;
    return SUCCESS;
}
int cublasSetStream_v2(Handle *h, void *stream) {
    if (!h) return NOT_INITIALIZED;
    h->stream = stream;
    return SUCCESS;
}
int cublasGetStream_v2(Handle *h, void **stream) {
    if (!h) return NOT_INITIALIZED;
    *stream = h->stream;
    return SUCCESS;
}
int cublasSetPointerMode_v2(Handle *h, int mode) {
    if (!h) return NOT_INITIALIZED;
    if (mode != 0 && mode != 1) return INVALID_VALUE;
    h->pointer_mode = mode;
    return SUCCESS;
}
int cublasGetPointerMode_v2(Handle *h, int *mode) {
    if (!h) return NOT_INITIALIZED;
    *mode = h->pointer_mode;
    return SUCCESS;
}
int cublasSetMathMode(Handle *h, int mode) {
    if (!h) return NOT_INITIALIZED;
    h->math_mode = mode;
    return SUCCESS;
}
int cublasGetMathMode(Handle *h, int *mode) {
    if (!h) return NOT_INITIALIZED;
    *mode = h->math_mode;
    return SUCCESS;
}

#define REFUSE(name)            \
    int name(void) {            \
        host_blas_refuse(#name); \
        return NOT_SUPPORTED;   \
    }
#define REFUSE_FOUR(name) \
    REFUSE(cublasS##name) REFUSE(cublasD##name) REFUSE(cublasC##name) REFUSE(cublasZ##name)

REFUSE_FOUR(dgmm)
REFUSE_FOUR(geam)
REFUSE_FOUR(getrfBatched)
REFUSE_FOUR(getriBatched)
REFUSE_FOUR(getrsBatched)
REFUSE_FOUR(syrk_v2)
REFUSE_FOUR(trsmBatched)
REFUSE_FOUR(trsm_v2)
REFUSE(cublasSsbmv_v2)
REFUSE(cublasDsbmv_v2)
REFUSE(cublasStpttr)
REFUSE(cublasDtpttr)
REFUSE(cublasStrttp)
REFUSE(cublasDtrttp)
}
