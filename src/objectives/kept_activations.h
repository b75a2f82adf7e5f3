#pragma once

#include "core/device.h"

namespace tessera {
struct Config;
}
namespace tessera::model {
class Stage1Model;
}

namespace tessera::objectives {

/// What the passes of a training step keep of one pair for the backward pass, in bytes: one method a pass.
/// It follows from what each operation saves for its gradient (an operation on frozen parameters saves less),
/// which of these a kernel of ours computes again, and under autocast from the dtype that each tensor has:
/// products read and write bfloat16, and what several products read is cast for each of them anew; the
/// text's residual stream, norms' inputs and the logarithms of probabilities stay float32.
class KeptActivations {
 public:
  KeptActivations(const Config& config, const model::Stage1Model& model, const Compute& compute);

  double compressor() const;
  double image_blocks() const;
  /// Bidirectional text, all layers.
  double text() const;
  /// Its layers below the first level; causal text keeps the same.
  double lower_text() const;
  /// Of causal text, what the first level's self-attention keeps beside the lower layers.
  double first_text_attention() const;
  double maxsim() const;
  /// The fused pass over one pair, from both sides' first self-attention on.
  double fused() const;
  /// What the fused pass computes once an image and once a text, however many pairs they are in.
  /// @param with_self_attention  also the first level's, where no earlier pass has computed it
  double shared_by_pairs(bool with_self_attention) const;
  /// Causal text that reads `context_tokens` at each level, from the first level's self-attention on, and the
  /// logarithms of its probabilities.
  /// @param joined  the context is image states and a read-out joined, a tensor of their own
  double decoder(double context_tokens, bool joined) const;
  /// What the backward pass of a caption's logits takes beside what was kept.
  double logits_backward() const;
  /// The same of a pair's last fused layers.
  double fused_backward() const;

  double image_tokens() const { return image_tokens_; }

 private:
  /// A side of the fused pass.
  struct Side {
    double tokens, width;
    double stream;  ///< bytes of a number of its residual stream
  };

  double attention_operand(double numbers) const { return operand_ * numbers; }
  double image_attention_half() const;
  double image_feed_forward_half() const;
  double text_attention_half() const;
  double text_feed_forward_half() const;
  double text_layer() const { return text_attention_half() + text_feed_forward_half(); }
  /// Inputs of the query's norm and product.
  double queries(const Side& side) const;
  /// Query, what was read, and its projection.
  double read(const Side& side) const;
  /// Key and value of what is read.
  double keys(const Side& reader, const Side& of) const;
  /// A side after a norm, as a product reads it.
  double normed(const Side& side) const;

  static constexpr double kWide = 4;  ///< bytes of a float32

  const Config& config_;
  bool casts_;
  double narrow_;                          ///< bytes of a number that products compute with
  double operand_;                         ///< of one that attention keeps
  double rotated_;                         ///< of one that the text's own attention keeps
  double dropout_keeps_, swiglu_keeps_;    ///< tensors that these keep (ops/activations.h)
  bool is_kernel_image_, is_kernel_text_;  ///< the feed-forward half is one (ops/feed_forward.h)
  double layers_, levels_, intermediate_, vocabulary_, image_inner_;
  double image_tokens_, encoder_width_, compressor_width_, token_size_;
  Side image_{}, text_{};
};

}  // namespace tessera::objectives
