#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace tessera {

/// Whether no value of a tensor is NaN or infinite: true of integers, and of no values at all. One pass over
/// the values, so that weights can be checked where they are read.
bool is_finite(const at::Tensor& values);

/// What of a tensor is not finite: "2 of 64 values, the first nan at [3, 1]"; empty where nothing is.
std::string what_is_not_finite(const at::Tensor& values);

/// @param what  the weights in words, with their file
/// @throws Error saying what of them is not finite
void check_weights(const at::Tensor& values, const std::string& what);

/// @param rows   what a model computed, [N, …]
/// @param what   the rows in words: "the embedding"
/// @param names  N, what they were computed from; empty: they are counted from 0
/// @throws Error naming the first whose row is not finite
void check_computed(const at::Tensor& rows, const std::string& what, const std::vector<std::string>& names);

}  // namespace tessera
