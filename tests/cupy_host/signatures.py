"""Lists the C signatures of CuPy 14.2's capsules, which are equal for CUDA 12 and 13.

Each line is a capsule: name, result, arguments, and the result for which CuPy checks for a Python
exception. `object` is `PyObject *`; `skip` and `optional` are the arguments that Cython adds
to a function that Python can override or call with defaults; a line without brackets is a variable.
"""

from __future__ import annotations

RUNTIME = """
_is_hip_environment: int
deviceAttributeComputeCapabilityMajor: int
deviceAttributeComputeCapabilityMinor: int
errorContextIsDestroyed: int
errorInvalidResourceHandle: int
errorInvalidValue: int
errorMemoryAllocation: int
errorPeerAccessAlreadyEnabled: int
deviceSynchronize: object (skip)
memGetInfo: object (skip)
profilerStart: object (skip)
profilerStop: object (skip)
_deviceEnsurePeerAccess: object (int, skip)
check_status: object (int, skip)
deviceEnablePeerAccess: object (int, skip)
deviceGetPCIBusId: object (int, skip)
getDeviceProperties: object (int, skip)
setDevice: object (int, skip)
deviceSetMemPool: object (int, ptr, skip)
deviceSetLimit: object (int, size, skip)
_launchHostFuncUnmanaged: object (ptr, object, skip)
launchHostFunc: object (ptr, object, ptr, skip)
streamAddCallback: object (ptr, object, ptr, skip, optional)
graphDebugDotPrint: object (ptr, object, uint, skip)
eventDestroy: object (ptr, skip)
eventQuery: object (ptr, skip)
eventSynchronize: object (ptr, skip)
free: object (ptr, skip)
freeArray: object (ptr, skip)
freeHost: object (ptr, skip)
graphDestroy: object (ptr, skip)
graphExecDestroy: object (ptr, skip)
hostUnregister: object (ptr, skip)
memPoolDestroy: object (ptr, skip)
memcpy3D: object (ptr, skip)
streamDestroy: object (ptr, skip)
streamQuery: object (ptr, skip)
streamSynchronize: object (ptr, skip)
streamBeginCapture: object (ptr, skip, optional)
memPoolSetAttribute: object (ptr, int, object, skip)
memPoolGetAttribute: object (ptr, int, skip)
memcpyPeer: object (ptr, int, ptr, int, size, skip)
memcpyPeerAsync: object (ptr, int, ptr, int, size, ptr, skip)
memset: object (ptr, int, size, skip)
memsetAsync: object (ptr, int, size, ptr, skip)
eventRecord: object (ptr, ptr, skip)
freeAsync: object (ptr, ptr, skip)
graphLaunch: object (ptr, ptr, skip)
graphUpload: object (ptr, ptr, skip)
memcpy3DAsync: object (ptr, ptr, skip)
streamWaitEvent: object (ptr, ptr, skip, optional)
memcpy: object (ptr, ptr, size, int, skip)
memcpyAsync: object (ptr, ptr, size, int, ptr, skip)
memPoolTrimTo: object (ptr, size, skip)
memAdvise: object (ptr, size, int, int, skip)
memPrefetchAsync: object (ptr, size, int, ptr, skip)
memcpy2D: object (ptr, size, ptr, size, size, size, cudaMemcpyKind, skip)
memcpy2DAsync: object (ptr, size, ptr, size, size, size, cudaMemcpyKind, ptr, skip)
memcpy2DFromArray: object (ptr, size, ptr, size, size, size, size, int, skip)
memcpy2DFromArrayAsync: object (ptr, size, ptr, size, size, size, size, int, ptr, skip)
memcpy2DToArray: object (ptr, size, size, ptr, size, size, size, int, skip)
memcpy2DToArrayAsync: object (ptr, size, size, ptr, size, size, size, int, ptr, skip)
hostRegister: object (ptr, size, uint, skip)
destroySurfaceObject: object (ulong, skip)
destroyTextureObject: object (ulong, skip)
_ensure_context: object ()
getChannelDesc: cudaChannelFormatDesc (ptr)
make_Extent: cudaExtent (size, size, size)
make_PitchedPtr: cudaPitchedPtr (ptr, size, size, size)
make_Pos: cudaPos (size, size, size)
getTextureObjectResourceDesc: cudaResourceDesc (ulong)
getTextureObjectTextureDesc: cudaTextureDesc (ulong)
eventElapsedTime: float (ptr, ptr, skip) except 0
deviceGetByPCIBusId: int (object, skip) except -1
_getCUDAMajorVersion: int (skip) except -1
driverGetVersion: int (skip) except -1
getDevice: int (skip) except -1
getDeviceCount: int (skip) except -1
runtimeGetVersion: int (skip) except -1
deviceCanAccessPeer: int (int, int, skip) except -1
deviceGetAttribute: int (int, int, skip) except -1
pointerGetMemoryType: int (ptr, skip) except -1
streamGetPriority: int (ptr, skip) except 0
streamIsCapturing: int (ptr, skip) except -1
eventCreate: ptr (skip) except 0
streamCreate: ptr (skip) except 0
deviceGetDefaultMemPool: ptr (int, skip) except 0
deviceGetMemPool: ptr (int, skip) except 0
graphInstantiate: ptr (ptr, skip) except 0
streamEndCapture: ptr (ptr, skip) except 0
mallocArray: ptr (ptr, size, size, skip, optional) except 0
malloc3DArray: ptr (ptr, size, size, size, skip, optional) except 0
malloc: ptr (size, skip) except 0
mallocManaged: ptr (size, skip, optional) except 0
mallocAsync: ptr (size, ptr, skip) except 0
mallocFromPoolAsync: ptr (size, ptr, ptr, skip) except 0
hostAlloc: ptr (size, uint, skip) except 0
memPoolCreate: ptr (MemPoolProps, skip) except 0
eventCreateWithFlags: ptr (uint, skip) except 0
streamCreateWithFlags: ptr (uint, skip) except 0
streamCreateWithPriority: ptr (uint, int, skip) except 0
deviceGetLimit: size (int, skip) except -1
pointerGetAttributes: PointerAttributes (ptr, skip)
createSurfaceObject: ulong (ptr, skip) except 0
createTextureObject: ulong (ptr, ptr, skip) except 0
streamGetFlags: uint (ptr, skip) except 0
"""
DRIVER = """
devicePrimaryCtxRelease: object (CUdevice, skip)
get_build_version: object (skip)
ctxDestroy: object (ptr, skip)
ctxSetCurrent: object (ptr, skip)
linkComplete: object (ptr, skip)
linkDestroy: object (ptr, skip)
moduleUnload: object (ptr, skip)
linkAddData: object (ptr, int, object, object, skip)
linkAddFile: object (ptr, int, object, skip)
funcSetAttribute: object (ptr, int, int, skip)
occupancyMaxPotentialBlockSize: object (ptr, size, int, skip)
launchCooperativeKernel: object (ptr, uint, uint, uint, uint, uint, uint, uint, ptr, ptr, skip)
launchKernel: object (ptr, uint, uint, uint, uint, uint, uint, uint, ptr, ptr, ptr, skip)
ctxGetDevice: int (skip) except -1
funcGetAttribute: int (int, ptr, skip) except -2
occupancyMaxActiveBlocksPerMultiprocessor: int (ptr, int, size, skip) except -1
ctxCreate: ptr (CUdevice, skip) except 0
moduleLoad: ptr (object, skip) except 0
moduleLoadData: ptr (object, skip) except 0
ctxGetCurrent: ptr (skip) except 0
linkCreate: ptr (skip) except 0
moduleGetFunction: ptr (ptr, object, skip) except 0
moduleGetGlobal: ptr (ptr, object, skip) except 0
streamGetCtx: ptr (ptr, skip) except 0
"""
