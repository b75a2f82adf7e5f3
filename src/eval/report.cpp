#include "eval/report.h"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>
#include <utility>

namespace tessera::eval {

namespace {

constexpr const char* kChance = "_chance";
constexpr const char* kSwapped = "_swapped";

using Scorer = std::pair<const char*, const char*>;  ///< prefix of the names, title
constexpr std::array<Scorer, 3> kScorers = {
    {{"", "ITC"}, {"maxsim_", "MaxSim"}, {"reranked_", "ITC, then ITM"}}};

std::string retrieval_row(const nlohmann::json& figures, const Scorer& scorer) {
  std::string row = fmt::format("{:<16}", scorer.second);
  for (const char* direction : {"image_to_text", "text_to_image"}) {
    for (const char* recall : {"_r1", "_r5", "_r10"}) {
      row += fmt::format("{:>8.2f}",
                         100 * figures.value(fmt::format("{}{}{}", scorer.first, direction, recall), 0.0));
    }
    row +=
        fmt::format("{:>8.1f}", figures.value(fmt::format("{}{}_median_rank", scorer.first, direction), 0.0));
  }
  return row + "\n";
}

std::string retrieval_table(const nlohmann::json& figures) {
  if (!figures.contains("image_to_text_r1")) return "";
  const char* recalls = "   R@1 %   R@5 %  R@10 %  median";
  std::string table = fmt::format("{:<16}{:>32}{:>32}\n{:<16}{}{}\n", "", "image to text", "text to image",
                                  "", recalls, recalls);
  for (const Scorer& scorer : kScorers) {
    if (figures.contains(std::string(scorer.first) + "image_to_text_r1"))
      table += retrieval_row(figures, scorer);
  }
  return table +
         fmt::format("{} images, {} captions\n", figures.value("images", 0), figures.value("captions", 0));
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() > end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// Whether a figure stands in the table, or beside another.
bool is_shown_elsewhere(const nlohmann::json& figures, const std::string& name) {
  if (name == "images" || name == "captions" || name == "rerank_top_k")
    return figures.contains("image_to_text_r1");
  for (const Scorer& scorer : kScorers) {
    for (const char* part : {"image_to_text_", "text_to_image_", "mean_r"}) {
      if (name.rfind(std::string(scorer.first) + part, 0) == 0) return true;
    }
  }
  return ends_with(name, kChance) || ends_with(name, kSwapped);
}

std::string number(const nlohmann::json& value) {
  return value.is_number_integer() ? value.dump() : fmt::format("{:.4f}", value.get<double>());
}

}  // namespace

std::string to_table(const nlohmann::json& figures) {
  std::string table = retrieval_table(figures);
  for (const auto& [name, value] : figures.items()) {
    if (!value.is_number() || is_shown_elsewhere(figures, name)) continue;
    table += fmt::format("{:<32}{:>10}", name, number(value));
    if (figures.contains(name + kChance))
      table += fmt::format("  chance {}", number(figures.at(name + kChance)));
    if (figures.contains(name + kSwapped)) {
      table += fmt::format("  other image {}", number(figures.at(name + kSwapped)));
    }
    table += "\n";
  }
  return table;
}

}  // namespace tessera::eval
