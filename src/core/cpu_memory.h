#pragma once

#include "core/error.h"

namespace tessera {

/// The system has no memory for a tensor.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

/// Lets the tensors of a step take the memory that those of the step before have left. Once, at a program's
/// start.
///
/// A step frees hundreds of tensors of a few MiB and asks for the same again. Two things about glibc are in
/// the way of that:
/// - It gives such memory back to the system at once, which then hands it out anew page by page, each filled
///   with zeros. So it is told to keep what is freed.
/// - LibTorch takes memory by posix_memalign, which before glibc 2.38 looks for a piece that is larger than
///   what was asked for, by the alignment: what a tensor leaves never holds the next one of its size, and a
///   process grows to one and a half times what it needs (docs/results.md). So tensors come from an allocator
///   that aligns within a piece of malloc's, which takes a free piece of the same size again. It throws
///   OutOfMemory.
void keep_freed_memory();

}  // namespace tessera
