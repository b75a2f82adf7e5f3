#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <vector>

namespace tessera::fusion {

// What the passes of the fusion tower take beside their tokens: tensors alone, so that who passes them on
// needs no modules.

/// What a caption is decoded from. At least one of the two is there.
struct CaptionCondition {
  std::vector<at::Tensor> image_states;  ///< FusionTower::image_states, M+1 of [B, N, D]; empty: no image
  at::Tensor memory;                     ///< [B, code_size] read-out of the episodic memory; undefined: none
  at::Tensor has_memory;  ///< [B] bool, beside an image only: rows that see their read-out; undefined: all

  std::int64_t batch_size() const {
    TORCH_CHECK(!image_states.empty() || memory.defined(),
                "a caption is conditioned on an image or on the memory");
    return image_states.empty() ? memory.size(0) : image_states.front().size(0);
  }
};

/// Which of I images and J texts make up N pairs. Undefined: as many images as texts, each with its own.
struct PairRows {
  at::Tensor image;  ///< [N] int64
  at::Tensor text;   ///< [N] int64
};

/// The first level's inputs after its self-attention, before either side has read the other: the same in
/// several passes, which take them from whoever has them. Undefined: a pass computes its own.
struct FirstAttention {
  at::Tensor image;  ///< attended_image
  at::Tensor text;   ///< attended_text
};

}  // namespace tessera::fusion
