#include "inference/explanation.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "config/config.h"
#include "core/error.h"
#include "core/finite.h"
#include "inference/encode_inputs.h"
#include "inference/word_spans.h"
#include "language/tokenizer.h"
#include "losses/loss_abilities.h"
#include "model/stage1_model.h"
#include "vision/encoder.h"

namespace tessera::inference {

namespace {

/// The token embeddings of one text beside the places of its tokens.
struct ReadText {
  language::EncodedText encoded;
  at::Tensor tokens;  ///< [T, S]
};

ReadText read_text(const TrainedModel& evaluated, const std::string& text) {
  ReadText read;
  read.encoded = evaluated.tokenizer.encode_with_spans(text, evaluated.config.language.max_tokens);
  const model::TextFeatures features = encode_texts(evaluated, {text});
  read.tokens = evaluated.model.token_embeddings(features)[0].to(at::kCPU, at::kFloat);
  return read;
}

/// The patches of one image in their grid.
class ImagePatches {
 public:
  ImagePatches(const TrainedModel& evaluated, const model::ImageFeatures& image)
      : grid_(evaluated.model.vision().grid(evaluated.config.data.image_size,
                                            evaluated.config.data.image_size)),
        patches_(evaluated.model.patch_embeddings(image)[0].to(at::kCPU, at::kFloat)) {
    TORCH_CHECK(patches_.size(0) == grid_.patches(), "heat maps: an image of ", grid_.rows, " x ",
                grid_.columns, " patches expected, got ", patches_.size(0), " patches");
  }

  HeatMap map(const std::string& word, bool in_text, const ReadText& text,
              const std::vector<std::int64_t>& positions) const {
    const at::Tensor similarity = word_similarity(patches_, text.tokens, positions);
    check_computed(similarity.unsqueeze(0), "its heat map", {quoted(word)});
    return {word, in_text, similarity.view({grid_.rows, grid_.columns})};
  }

 private:
  vision::PatchGrid grid_;
  at::Tensor patches_;  ///< [P, S]
};

HeatMap map_of_word(const TrainedModel& evaluated, const ImagePatches& patches, const std::string& text,
                    const ReadText& read, const std::string& word) {
  if (const auto span = find_phrase(text, word)) {
    const std::vector<std::int64_t> positions = token_positions(read.encoded, *span);
    if (!positions.empty()) return patches.map(word, /*in_text=*/true, read, positions);
  }
  const ReadText alone = read_text(evaluated, word);
  const std::vector<std::int64_t> positions = token_positions(alone.encoded, {word, 0, word.size()});
  if (positions.empty()) fail("'{}': a word to show must have at least one letter", word);
  return patches.map(word, /*in_text=*/false, alone, positions);
}

}  // namespace

at::Tensor word_similarity(const at::Tensor& patches, const at::Tensor& tokens,
                           const std::vector<std::int64_t>& positions) {
  TORCH_CHECK(!positions.empty(), "word_similarity: at least one token expected");
  // The mean of inner products is the inner product with the mean.
  const at::Tensor word = tokens.index_select(0, at::tensor(positions, at::kLong)).mean(0);
  return patches.mul(word).sum(1);
}

std::vector<HeatMap> heat_maps(const TrainedModel& evaluated, const model::ImageFeatures& image,
                               const std::string& text, const std::vector<std::string>& words) {
  require_trained(evaluated.config.losses, losses::Ability::kTokenEmbeddings, "heat maps");
  const c10::NoGradGuard no_grad;
  const AutocastScope autocast(evaluated.compute);
  const ImagePatches patches(evaluated, image);
  const ReadText read = read_text(evaluated, text);
  std::vector<HeatMap> maps;
  for (const std::string& word : words) maps.push_back(map_of_word(evaluated, patches, text, read, word));
  if (!words.empty()) return maps;
  for (const WordSpan& span : content_words(text)) {
    const std::vector<std::int64_t> positions = token_positions(read.encoded, span);
    if (!positions.empty()) maps.push_back(patches.map(span.word, /*in_text=*/true, read, positions));
  }
  return maps;
}

}  // namespace tessera::inference
