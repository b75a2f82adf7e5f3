#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

namespace tessera::eval {

/// A folder of classes: FOLDER/CLASS/IMAGE.
struct ClassFolder {
  std::vector<std::string> folders;  ///< names of the class folders, sorted
  std::vector<std::string> classes;  ///< what the classes are called, in the same order
  /// Image files (.jpg, .jpeg, .png, .webp), by class and name, each with its class.
  std::vector<std::pair<std::filesystem::path, std::int64_t>> images;
  std::string left_out;  ///< how many files and folders are not used, and why; empty: none
};

/// A class is called what its folder is called, with spaces for _ and -, unless `classes_file` says
/// otherwise: a line a class, "FOLDER<tab>NAME", for every class folder that there is.
/// @param classes_file  empty: none
/// @throws Error naming folder or line: no classes, a class without images or without name
ClassFolder read_class_folder(const std::filesystem::path& folder, const std::filesystem::path& classes_file);

/// Sentences with {} in place of the class, a line each.
/// @param file  empty: a default list
/// @throws Error naming file and line where there is not exactly one {}
std::vector<std::string> prompt_templates(const std::filesystem::path& file);

/// Every template with every class: class 0 in all templates, then class 1, …
std::vector<std::string> class_prompts(const std::vector<std::string>& classes,
                                       const std::vector<std::string>& templates);

/// One embedding a class: the mean over its prompts, normalised (CLIP, Radford et al. 2021, section 3.1.4).
/// @param prompts [C·T, E] L2-normalised embeddings of class_prompts
/// @return [C, E]
at::Tensor class_embeddings(const at::Tensor& prompts, std::int64_t classes);

struct ZeroShotScores {
  double top1 = 0;       ///< share of images whose class scores highest; ties count against
  double top5 = 0;       ///< among the first five
  at::Tensor confusion;  ///< [C, C] int64: images of the row's class that were taken for the column's
  std::int64_t images = 0;
};

/// @param image  [N, E], @param classes [C, E], @param labels [N] int64
/// @throws Error where a score is not finite
ZeroShotScores zero_shot_scores(const at::Tensor& image, const at::Tensor& classes, const at::Tensor& labels);

/// zero_shot_top1, zero_shot_top5, zero_shot_top1_chance (1/C), zero_shot_top5_chance, zero_shot_images,
/// zero_shot_classes (names), zero_shot_confusion (rows).
void add_to_json(nlohmann::json& json, const ZeroShotScores& scores, const std::vector<std::string>& classes);

}  // namespace tessera::eval
