#include "inference/explanation.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "config/config.h"
#include "core/autocast.h"
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

ReadText read_text(const TrainedModel& trained, const std::string& text) {
  ReadText read;
  read.encoded = trained.tokenizer.encode_with_spans(text, trained.config.language.max_tokens);
  const model::TextFeatures features = encode_texts(trained, {text});
  read.tokens = trained.model.token_embeddings(features)[0].to(at::kCPU, at::kFloat);
  return read;
}

/// A word within a text that was read, or by itself.
struct ReadWord {
  std::string word;
  bool in_text = true;
  at::Tensor tokens;                    ///< [T, S], of all that was read
  std::vector<std::int64_t> positions;  ///< of the word's own among them
};

ReadWord read_word(const TrainedModel& trained, const std::string& text, const ReadText& read,
                   const std::string& word) {
  if (const auto span = find_phrase(text, word)) {
    const std::vector<std::int64_t> positions = token_positions(read.encoded, *span);
    if (!positions.empty()) return {word, /*in_text=*/true, read.tokens, positions};
  }
  const ReadText alone = read_text(trained, word);
  const std::vector<std::int64_t> positions = token_positions(alone.encoded, {word, 0, word.size()});
  if (positions.empty()) fail("'{}': a word to show must have at least one letter", word);
  return {word, /*in_text=*/false, alone.tokens, positions};
}

/// The words that are asked for or, where there are none, the content words of the text.
std::vector<ReadWord> read_words(const TrainedModel& trained, const std::string& text,
                                 const std::vector<std::string>& words) {
  const ReadText read = read_text(trained, text);
  std::vector<ReadWord> found;
  for (const std::string& word : words) found.push_back(read_word(trained, text, read, word));
  if (!words.empty()) return found;
  for (const WordSpan& span : content_words(text)) {
    const std::vector<std::int64_t> positions = token_positions(read.encoded, span);
    if (!positions.empty()) found.push_back({span.word, /*in_text=*/true, read.tokens, positions});
  }
  return found;
}

/// The patches of one image in their grid.
class ImagePatches {
 public:
  ImagePatches(const TrainedModel& trained, const model::ImageFeatures& image)
      : grid_(trained.model.vision().grid(trained.config.data.image_size, trained.config.data.image_size)),
        patches_(trained.model.patch_embeddings(image)[0].to(at::kCPU, at::kFloat)) {
    TORCH_CHECK(patches_.size(0) == grid_.patches(), "heat maps: an image of ", grid_.rows, " x ",
                grid_.columns, " patches expected, got ", patches_.size(0), " patches");
  }

  HeatMap map(const ReadWord& read) const {
    const at::Tensor similarity = word_similarity(patches_, read.tokens, read.positions);
    check_computed(similarity.unsqueeze(0), "its heat map", {quoted(read.word)});
    return {read.word, read.in_text, similarity.view({grid_.rows, grid_.columns})};
  }

 private:
  vision::PatchGrid grid_;
  at::Tensor patches_;  ///< [P, S]
};

}  // namespace

at::Tensor word_similarity(const at::Tensor& patches, const at::Tensor& tokens,
                           const std::vector<std::int64_t>& positions) {
  TORCH_CHECK(!positions.empty(), "word_similarity: at least one token expected");
  // The mean of inner products is the inner product with the mean.
  const at::Tensor word = tokens.index_select(0, at::tensor(positions, at::kLong)).mean(0);
  return patches.mul(word).sum(1);
}

std::vector<HeatMap> heat_maps(const TrainedModel& trained, const model::ImageFeatures& image,
                               const std::string& text, const std::vector<std::string>& words) {
  return heat_maps(trained, std::vector<model::ImageFeatures>{image}, text, words).front();
}

std::vector<std::vector<HeatMap>> heat_maps(const TrainedModel& trained,
                                            const std::vector<model::ImageFeatures>& images,
                                            const std::string& text, const std::vector<std::string>& words) {
  require_trained(trained.config.losses, losses::Ability::kTokenEmbeddings, "heat maps");
  const c10::NoGradGuard no_grad;
  const AutocastScope autocast(trained.compute);
  const std::vector<ReadWord> read = read_words(trained, text, words);
  std::vector<std::vector<HeatMap>> maps;
  for (const model::ImageFeatures& image : images) {
    const ImagePatches patches(trained, image);
    std::vector<HeatMap>& of_image = maps.emplace_back();
    for (const ReadWord& word : read) of_image.push_back(patches.map(word));
  }
  return maps;
}

}  // namespace tessera::inference
