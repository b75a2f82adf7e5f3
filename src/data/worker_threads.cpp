#include "data/worker_threads.h"

#include <ATen/Parallel.h>
#include <dlfcn.h>

namespace tessera::data {

void compute_single_threaded_here() {
  // ATen sets up a thread's count at its first use, which would undo what follows.
  at::get_num_threads();
  // The count is OpenMP's and per thread. LibTorch may bring its own OpenMP library under another name than
  // the compiler's, so the function is looked up where LibTorch's own calls are resolved.
  if (void* symbol = dlsym(RTLD_DEFAULT, "omp_set_num_threads")) {
    reinterpret_cast<void (*)(int)>(symbol)(1);
  }
}

}  // namespace tessera::data
