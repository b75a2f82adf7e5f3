#include "data/file_names.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/utf8.h"

namespace tessera::data {

namespace {

constexpr std::size_t kKindsNamed = 8;

std::string_view last_part(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? path : path.substr(slash + 1);
}

}  // namespace

std::string lower_extension(std::string_view path) {
  const std::string_view name = last_part(path);
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos || dot == 0) return {};
  return lower_case(std::string(name.substr(dot + 1)));
}

bool is_image_extension(std::string_view extension) {
  constexpr std::array<std::string_view, 4> kExtensions = {"jpg", "jpeg", "png", "webp"};
  return std::find(kExtensions.begin(), kExtensions.end(), extension) != kExtensions.end();
}

bool is_hidden(std::string_view path) {
  while (!path.empty()) {
    const std::string_view part = path.substr(0, path.find('/'));
    const bool hidden = part.size() > 1 && part.front() == '.' && part != "..";
    if (hidden || part == "__MACOSX" || part == "@eaDir") return true;
    path.remove_prefix(std::min(part.size() + 1, path.size()));
  }
  return false;
}

std::string common_folder(const std::vector<TarMember>& members) {
  std::string_view common;
  bool is_first = true;
  for (const TarMember& member : members) {
    const std::string_view name = member.name;
    const std::string_view folder = name.substr(0, name.rfind('/') + 1);
    if (std::exchange(is_first, false)) common = folder;
    while (!folder.starts_with(common)) {
      common.remove_suffix(1);
      common = common.substr(0, common.rfind('/') + 1);
    }
  }
  return std::string(common);
}

void LeftOut::add(const std::string& reason, const std::string& example, std::int64_t count) {
  Reason& counted = reasons_[reason];
  if (counted.count == 0) counted.example = example;
  counted.count += count;
}

void LeftOut::add_kind(std::string_view path) { ++kinds_[lower_extension(path)]; }

void LeftOut::add(const LeftOut& other) {
  for (const auto& [reason, counted] : other.reasons_) add(reason, counted.example, counted.count);
  for (const auto& [kind, count] : other.kinds_) kinds_[kind] += count;
}

LeftOut left_out_of(const TarIndex& index) {
  LeftOut left_out;
  for (const std::string& link : index.links)
    left_out.add("links to what the tar does not hold before them", link);
  for (const std::string& name : index.specials) left_out.add("devices or pipes", name);
  return left_out;
}

std::string LeftOut::text() const {
  std::vector<std::string> parts;
  for (const auto& [reason, counted] : reasons_) {
    parts.push_back(fmt::format("{} {} (such as {})", counted.count, reason, quoted(counted.example)));
  }
  if (!kinds_.empty()) {
    // Files that have nothing to do with pictures may be of any number of kinds; the most frequent say most.
    std::vector<std::pair<std::string, std::int64_t>> kinds(kinds_.begin(), kinds_.end());
    std::stable_sort(kinds.begin(), kinds.end(),
                     [](const auto& one, const auto& other) { return one.second > other.second; });
    std::int64_t all = 0;
    std::string named;
    for (std::size_t i = 0; i < kinds.size(); ++i) {
      all += kinds[i].second;
      if (i == kKindsNamed) named += ", …";
      if (i >= kKindsNamed) continue;
      named += fmt::format("{}{} {}", i == 0 ? "" : ", ",
                           kinds[i].first.empty() ? "no extension" : "." + kinds[i].first, kinds[i].second);
    }
    parts.push_back(fmt::format("{} of other kinds ({})", all, named));
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

}  // namespace tessera::data
