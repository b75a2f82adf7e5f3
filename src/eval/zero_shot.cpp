#include "eval/zero_shot.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/text_file.h"
#include "core/utf8.h"
#include "data/file_names.h"

namespace tessera::eval {

namespace {

namespace fs = std::filesystem;

constexpr const char* kPlace = "{}";

std::vector<fs::path> sorted_entries(const fs::path& folder, data::LeftOut& left_out) {
  std::error_code error;
  std::vector<fs::path> entries;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    if (data::is_hidden(at->path().filename().string())) {
      left_out.add("hidden", at->path().string());
    } else {
      entries.push_back(at->path());
    }
  }
  if (error) fail("{}: can't be listed: {}", folder.string(), error.message());
  std::sort(entries.begin(), entries.end());
  return entries;
}

/// The lines of a file that hold anything, with their numbers from 1.
std::vector<std::pair<std::size_t, std::string>> numbered_lines(const fs::path& file) {
  std::vector<std::pair<std::size_t, std::string>> lines;
  std::size_t number = 0;
  for (std::string& line : read_lines(file)) {
    ++number;
    if (!line.empty()) lines.emplace_back(number, std::move(line));
  }
  return lines;
}

std::map<std::string, std::string> names_by_folder(const fs::path& file) {
  std::map<std::string, std::string> names;
  for (const auto& [number, line] : numbered_lines(file)) {
    const std::size_t tab = line.find('\t');
    if (tab == 0 || tab == std::string::npos || tab + 1 == line.size()) {
      fail("{}:{}: expected FOLDER<tab>NAME, found '{}'", file.string(), number, line);
    }
    check_utf8(line.substr(tab + 1), fmt::format("{}:{}: the class's name", file.string(), number));
    names[line.substr(0, tab)] = line.substr(tab + 1);
  }
  return names;
}

std::vector<std::string> names_of(const std::vector<std::string>& folders, const fs::path& classes_file) {
  std::vector<std::string> classes;
  if (classes_file.empty()) {
    for (std::string name : folders) {
      std::replace_if(
          name.begin(), name.end(), [](char c) { return c == '_' || c == '-'; }, ' ');
      classes.push_back(std::move(name));
    }
    return classes;
  }
  const std::map<std::string, std::string> names = names_by_folder(classes_file);
  for (const std::string& folder : folders) {
    const auto found = names.find(folder);
    if (found == names.end())
      fail("{}: has no line for the class folder '{}'", classes_file.string(), folder);
    classes.push_back(found->second);
  }
  return classes;
}

}  // namespace

ClassFolder read_class_folder(const fs::path& folder, const fs::path& classes_file) {
  ClassFolder result;
  data::LeftOut left_out;
  for (const fs::path& entry : sorted_entries(folder, left_out)) {
    if (!fs::is_directory(entry)) {
      left_out.add("in no class's folder", entry.string());
      continue;
    }
    const auto label = static_cast<std::int64_t>(result.folders.size());
    const std::size_t before = result.images.size();
    for (const fs::path& file : sorted_entries(entry, left_out)) {
      if (fs::is_directory(file)) {
        left_out.add("folders within a class's", file.string());
      } else if (data::is_image_extension(data::lower_extension(file.string()))) {
        result.images.emplace_back(file, label);
      } else {
        left_out.add_kind(file.string());
      }
    }
    if (result.images.size() == before) {
      fail("{}: holds no image (.jpg, .jpeg, .png, .webp){}", entry.string(),
           left_out.empty() ? "" : "; not used so far: " + left_out.text());
    }
    result.folders.push_back(entry.filename().string());
  }
  if (result.folders.size() < 2) {
    fail("{}: expected at least two class folders, FOLDER/CLASS/IMAGE, found {}", folder.string(),
         result.folders.size());
  }
  result.left_out = left_out.text();
  result.classes = names_of(result.folders, classes_file);
  std::map<std::string, std::string> folder_of;
  for (std::size_t i = 0; i < result.classes.size(); ++i) {
    const auto [found, is_new] = folder_of.try_emplace(result.classes[i], result.folders[i]);
    if (is_new) continue;
    fail(
        "{}: the class folders '{}' and '{}' are both called '{}'; give each a name of its own "
        "(--classes-file)",
        folder.string(), found->second, result.folders[i], result.classes[i]);
  }
  return result;
}

std::vector<std::string> prompt_templates(const fs::path& file) {
  if (file.empty()) return {"a {}", "a photo of a {}", "a picture of a {}", "there is a {}", "this is a {}"};
  std::vector<std::string> templates;
  for (auto& [number, line] : numbered_lines(file)) {
    const std::size_t place = line.find(kPlace);
    if (place == std::string::npos || line.find(kPlace, place + 1) != std::string::npos) {
      fail("{}:{}: expected one {{}} in place of the class, found '{}'", file.string(), number, line);
    }
    check_utf8(line, fmt::format("{}:{}", file.string(), number));
    templates.push_back(std::move(line));
  }
  if (templates.empty()) fail("{}: holds no template", file.string());
  return templates;
}

std::vector<std::string> class_prompts(const std::vector<std::string>& classes,
                                       const std::vector<std::string>& templates) {
  std::vector<std::string> prompts;
  for (const std::string& name : classes) {
    for (std::string prompt : templates) {
      const std::size_t place = prompt.find(kPlace);
      TORCH_CHECK(place != std::string::npos, "zero-shot: template without {}: ", prompt);
      prompts.push_back(prompt.replace(place, 2, name));
    }
  }
  return prompts;
}

at::Tensor class_embeddings(const at::Tensor& prompts, std::int64_t classes) {
  TORCH_CHECK(prompts.dim() == 2 && classes > 0 && prompts.size(0) % classes == 0,
              "zero-shot: [C*T, E] embeddings of prompts expected, got ", prompts.sizes(), " for ", classes,
              " classes");
  const at::Tensor mean = prompts.to(at::kFloat).view({classes, -1, prompts.size(1)}).mean(1);
  return mean / mean.norm(2, {1}, true).clamp_min(1e-12);
}

ZeroShotScores zero_shot_scores(const at::Tensor& image, const at::Tensor& classes,
                                const at::Tensor& labels) {
  const c10::NoGradGuard no_grad;
  TORCH_CHECK(image.dim() == 2 && classes.dim() == 2 && image.size(1) == classes.size(1) &&
                  labels.dim() == 1 && labels.size(0) == image.size(0) && labels.size(0) > 0,
              "zero-shot: images [N, E], classes [C, E] and labels [N] expected, got ", image.sizes(), ", ",
              classes.sizes(), " and ", labels.sizes());
  // As in retrieval: summed in float64, compared in float32, so that equal embeddings tie.
  const at::Tensor scores = at::matmul(image.to(at::kDouble), classes.to(at::kDouble).t()).to(at::kFloat);
  const at::Tensor broken = scores.isfinite().logical_not().nonzero();
  if (broken.size(0) > 0)
    fail("zero-shot: a score of image {} is not finite", broken[0][0].item<std::int64_t>());
  const at::Tensor rank = scores.ge(scores.gather(1, labels.unsqueeze(1))).sum(1);
  const auto within = [&](std::int64_t k) { return rank.le(k).to(at::kDouble).mean().item<double>(); };
  const std::int64_t count = classes.size(0);
  const at::Tensor cell = labels * count + scores.argmax(1);
  return {within(1), within(5), cell.bincount({}, count * count).view({count, count}), image.size(0)};
}

void add_to_json(nlohmann::json& json, const ZeroShotScores& scores,
                 const std::vector<std::string>& classes) {
  const auto count = static_cast<std::int64_t>(classes.size());
  json["zero_shot_top1"] = scores.top1;
  json["zero_shot_top5"] = scores.top5;
  json["zero_shot_top1_chance"] = 1.0 / static_cast<double>(count);
  json["zero_shot_top5_chance"] =
      static_cast<double>(std::min<std::int64_t>(5, count)) / static_cast<double>(count);
  json["zero_shot_images"] = scores.images;
  json["zero_shot_classes"] = classes;
  nlohmann::json rows = nlohmann::json::array();
  for (std::int64_t row = 0; row < count; ++row) {
    const at::Tensor counts = scores.confusion[row].contiguous();
    const auto* begin = counts.const_data_ptr<std::int64_t>();
    rows.push_back(std::vector<std::int64_t>(begin, begin + count));
  }
  json["zero_shot_confusion"] = rows;
}

}  // namespace tessera::eval
