#include "language/tokenizer.h"

#include <ATen/ATen.h>
#include <sentencepiece_processor.h>

#include <algorithm>

#include "core/error.h"
#include "core/file_kind.h"
#include "core/files.h"

namespace tessera::language {

struct Tokenizer::Model {
  sentencepiece::SentencePieceProcessor processor;
  std::string bytes;
};

namespace {

/// The special ids that aren't where they must be, for a message; empty where all are.
std::string wrong_special_ids(const sentencepiece::SentencePieceProcessor& processor) {
  const int mask = processor.PieceToId(Tokenizer::kMaskPiece);
  struct Special {
    const char* name;
    std::int64_t found;
    std::int64_t expected;
  };
  // PieceToId gives the unknown id for a piece that isn't there.
  const Special specials[] = {
      {"pad", processor.pad_id(), Tokenizer::kPadId},
      {"unk", processor.unk_id(), Tokenizer::kUnkId},
      {"bos", processor.bos_id(), Tokenizer::kBosId},
      {"eos", processor.eos_id(), Tokenizer::kEosId},
      {"mask (the piece <mask>)", processor.IsUnknown(mask) ? -1 : mask, Tokenizer::kMaskId},
  };
  std::string wrong;
  for (const Special& special : specials) {
    if (special.found == special.expected) continue;
    const std::string found = special.found < 0 ? "absent" : std::to_string(special.found);
    wrong += fmt::format("{}{} is {}, expected {}", wrong.empty() ? "" : "; ", special.name, found,
                         special.expected);
  }
  return wrong;
}

}  // namespace

TokenBatch TokenBatch::to(c10::Device device) const {
  return {input_ids.to(device), attention_mask.to(device), is_cut.defined() ? is_cut.to(device) : is_cut};
}

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  return from_bytes(read_file(path), path.string());
}

Tokenizer Tokenizer::from_bytes(std::string model_bytes, const std::string& source) {
  auto model = std::make_shared<Model>();
  model->bytes = std::move(model_bytes);
  // An empty file is a valid empty message to the parser.
  const auto status = model->processor.LoadFromSerializedProto(model->bytes);
  if (!status.ok() || model->processor.GetPieceSize() == 0) {
    refuse_other_kind(model->bytes, source, "SentencePiece model");
    fail("{}: not a SentencePiece model{}{}", source, status.ok() ? "" : ": ",
         status.ok() ? "" : status.ToString());
  }
  const std::string wrong = wrong_special_ids(model->processor);
  if (!wrong.empty()) {
    fail("{}: special tokens are not where they must be ({}); train one with 'tessera train-tokenizer'",
         source, wrong);
  }
  return Tokenizer(std::move(model));
}

Tokenizer::CutText Tokenizer::cut_text(const std::string& text, std::int64_t max_tokens) const {
  TORCH_CHECK(max_tokens >= 2, "max_tokens counts bos and eos and is at least 2, got ", max_tokens);
  std::vector<int> pieces;
  const auto status = model_->processor.Encode(text, &pieces);
  TORCH_CHECK(status.ok(), "SentencePiece could not encode a text: ", status.ToString());
  const auto kept = static_cast<std::size_t>(std::min<std::int64_t>(pieces.size(), max_tokens - 2));
  CutText cut{{}, kept < pieces.size()};
  cut.ids.reserve(kept + 2);
  cut.ids.push_back(kBosId);
  cut.ids.insert(cut.ids.end(), pieces.begin(), pieces.begin() + static_cast<std::ptrdiff_t>(kept));
  cut.ids.push_back(kEosId);
  return cut;
}

std::vector<std::int64_t> Tokenizer::encode(const std::string& text, std::int64_t max_tokens) const {
  return cut_text(text, max_tokens).ids;
}

EncodedText Tokenizer::encode_with_spans(const std::string& text, std::int64_t max_tokens) const {
  TORCH_CHECK(max_tokens >= 2, "max_tokens counts bos and eos and is at least 2, got ", max_tokens);
  const sentencepiece::ImmutableSentencePieceText pieces = model_->processor.EncodeAsImmutableProto(text);
  const auto kept = static_cast<std::size_t>(std::min<std::int64_t>(pieces.pieces_size(), max_tokens - 2));
  EncodedText encoded{{kBosId}, {{0, 0}}};
  for (std::size_t i = 0; i < kept; ++i) {
    const auto piece = pieces.pieces(static_cast<int>(i));
    encoded.ids.push_back(piece.id());
    encoded.spans.push_back({piece.begin(), piece.end()});
  }
  encoded.ids.push_back(kEosId);
  encoded.spans.push_back({text.size(), text.size()});
  return encoded;
}

TokenBatch Tokenizer::encode_batch(const std::vector<std::string>& texts, std::int64_t max_tokens) const {
  TORCH_CHECK(!texts.empty(), "encode_batch needs at least one text");
  std::vector<CutText> sequences;
  sequences.reserve(texts.size());
  std::size_t longest = 0;
  for (const std::string& text : texts) {
    sequences.push_back(cut_text(text, max_tokens));
    longest = std::max(longest, sequences.back().ids.size());
  }
  const auto rows = static_cast<std::int64_t>(texts.size());
  const auto columns = static_cast<std::int64_t>(longest);
  TokenBatch batch;
  batch.input_ids = at::full({rows, columns}, kPadId, at::kLong);
  batch.attention_mask = at::zeros({rows, columns}, at::kBool);
  batch.is_cut = at::empty({rows}, at::kBool);
  std::int64_t* ids = batch.input_ids.mutable_data_ptr<std::int64_t>();
  bool* mask = batch.attention_mask.mutable_data_ptr<bool>();
  bool* is_cut = batch.is_cut.mutable_data_ptr<bool>();
  for (std::size_t row = 0; row < sequences.size(); ++row) {
    const std::vector<std::int64_t>& sequence = sequences[row].ids;
    std::copy(sequence.begin(), sequence.end(), ids + row * longest);
    std::fill_n(mask + row * longest, sequence.size(), true);
    is_cut[row] = sequences[row].is_cut;
  }
  return batch;
}

std::string Tokenizer::decode(const std::vector<std::int64_t>& ids) const {
  std::vector<int> pieces;
  pieces.reserve(ids.size());
  for (const std::int64_t id : ids) {
    TORCH_CHECK(id >= 0 && id < vocab_size(), "token id ", id, " is not in the vocabulary of ", vocab_size());
    // Left in, a leading bos would keep SentencePiece from taking the dummy prefix off the first word.
    if (!model_->processor.IsControl(static_cast<int>(id))) pieces.push_back(static_cast<int>(id));
  }
  std::string text;
  const auto status = model_->processor.Decode(pieces, &text);
  TORCH_CHECK(status.ok(), "SentencePiece could not decode: ", status.ToString());
  return text;
}

std::int64_t Tokenizer::vocab_size() const { return model_->processor.GetPieceSize(); }

const std::string& Tokenizer::model_bytes() const { return model_->bytes; }

}  // namespace tessera::language
