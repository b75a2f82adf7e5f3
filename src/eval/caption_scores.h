#pragma once

#include <array>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::eval {

/// How close captions come to what people wrote, by the formulas of pycocoevalcap, the COCO caption
/// evaluation (Chen et al. 2015). All but CIDEr-D (0 … 10) go from 0 to 1. METEOR and SPICE, which need Java
/// and a thesaurus, are left out.
struct CaptionScores {
  std::array<double, 4>
      bleu{};          ///< BLEU-1 … BLEU-4 of the corpus (Papineni et al. 2002), closest reference length
  double rouge_l = 0;  ///< ROUGE-L (Lin 2004), β = 1.2, mean over captions
  double cider_d = 0;  ///< CIDEr-D (Vedantam et al. 2015), mean over captions
};

/// Document frequencies, for CIDEr-D, are those of the references given: a corpus of one image has none, and
/// its CIDEr-D is 0. An empty caption scores 0, and counts.
///
/// @param candidates  [N] words separated by white space (tokenize_caption); N >= 1
/// @param references  [N] at least one an image, in the same form
/// @throws Error where a caption has no reference
CaptionScores caption_scores(const std::vector<std::string>& candidates,
                             const std::vector<std::vector<std::string>>& references);

/// Lower case (ASCII), punctuation removed, words separated by one space: "A dog's ball, red." → "a dog's
/// ball red". An apostrophe or hyphen inside a word stays; other ASCII punctuation separates words.
/// pycocoevalcap uses the Stanford PTB tokenizer instead (Java), which cuts clitics off ("dog 's") and leaves
/// symbols: figures differ a little where captions have them.
std::string tokenize_caption(std::string_view caption);

/// Adds bleu_1 … bleu_4, rouge_l, cider_d.
void add_to_json(nlohmann::json& json, const CaptionScores& scores);

}  // namespace tessera::eval
