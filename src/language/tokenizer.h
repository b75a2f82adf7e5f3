#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <vector>

namespace tessera::language {

struct TokenBatch {
  at::Tensor input_ids;       ///< [B, T] int64, padded on the right with pad_id
  at::Tensor attention_mask;  ///< [B, T] bool, true for real tokens
  /// [B] bool, true where max_tokens cut the text off: its eos, in the last column, is no end of it.
  /// Undefined: none was cut.
  at::Tensor is_cut{};

  TokenBatch to(c10::Device device) const;
};

/// The place of a token in its text, in bytes; empty for bos and eos.
struct TokenSpan {
  std::size_t begin = 0;
  std::size_t end = 0;  ///< past the last byte
};

struct EncodedText {
  std::vector<std::int64_t> ids;
  std::vector<TokenSpan> spans;  ///< one an id
};

/// A SentencePiece model with Tessera's special ids: pad 0, unk 1, bos 2, eos 3, mask 4. Copies share the
/// model, and encoding and decoding may run in several threads at once.
class Tokenizer {
 public:
  static constexpr std::int64_t kPadId = 0;
  static constexpr std::int64_t kUnkId = 1;
  static constexpr std::int64_t kBosId = 2;
  static constexpr std::int64_t kEosId = 3;
  static constexpr std::int64_t kMaskId = 4;
  static constexpr const char* kMaskPiece = "<mask>";
  static constexpr std::int64_t kNoLimit = std::numeric_limits<std::int64_t>::max();

  /// @throws Error naming the file where it is no SentencePiece model, or its special ids differ (all that
  /// do)
  static Tokenizer load(const std::filesystem::path& path);
  /// The same from a model file's content. @param source  what to call it in messages
  static Tokenizer from_bytes(std::string model_bytes, const std::string& source);

  /// bos … eos. A text that is too long loses its last tokens, never its eos, which readers of whole texts
  /// pool or stop at; who predicts tokens asks TokenBatch::is_cut. An empty text is bos eos.
  /// The text's own "<mask>" or "<s>" are plain characters. Bytes that aren't UTF-8 become U+FFFD.
  /// @param max_tokens  at least 2; counts bos and eos
  std::vector<std::int64_t> encode(const std::string& text, std::int64_t max_tokens = kNoLimit) const;

  /// The same with each token's place in the text. The space before a word belongs to the word's first token,
  /// and of a character that falls apart into byte tokens the last of them has the whole span.
  EncodedText encode_with_spans(const std::string& text, std::int64_t max_tokens = kNoLimit) const;

  /// Right-padded to the longest of the batch. @param texts  at least one
  TokenBatch encode_batch(const std::vector<std::string>& texts, std::int64_t max_tokens = kNoLimit) const;

  /// The text; special tokens give nothing, unk gives " ⁇ ". Inverse of encode for text without unknown
  /// characters and without U+2581, which SentencePiece uses for the space.
  /// @throws c10::Error where an id isn't in the vocabulary
  std::string decode(const std::vector<std::int64_t>& ids) const;

  std::int64_t vocab_size() const;
  std::int64_t pad_id() const { return kPadId; }
  std::int64_t unk_id() const { return kUnkId; }
  std::int64_t bos_id() const { return kBosId; }
  std::int64_t eos_id() const { return kEosId; }

  /// The model file's content, for writing it into a checkpoint or an export.
  const std::string& model_bytes() const;

 private:
  struct Model;
  struct CutText {
    std::vector<std::int64_t> ids;
    bool is_cut;
  };
  CutText cut_text(const std::string& text, std::int64_t max_tokens) const;
  explicit Tokenizer(std::shared_ptr<const Model> model) : model_(std::move(model)) {}

  std::shared_ptr<const Model> model_;
};

}  // namespace tessera::language
