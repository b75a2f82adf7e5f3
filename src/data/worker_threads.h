#pragma once

namespace tessera::data {

/// Makes ATen work with the calling thread alone where it is called from it. at::set_num_threads
/// would not do: it also changes what the training thread gets.
void compute_single_threaded_here();

}  // namespace tessera::data
