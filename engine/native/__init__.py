"""Native kernels: C++ behind a C ABI, loaded through ctypes."""
