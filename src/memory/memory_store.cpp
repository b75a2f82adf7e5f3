#include "memory/memory_store.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "core/error.h"

namespace tessera::memory {

namespace {

// Relative to the expected square of an address. Recall is off by about the ridge, forgetting by float64's
// rounding over the ridge; at 1e-8 both are about 1e-8.
constexpr double kRidge = 1e-8;
// Codes outside 1/kScale to kScale would drown in the ridge, or drown it.
constexpr double kScale = 1000;
constexpr std::size_t kNearIds = 3;

/// Levenshtein's distance.
std::size_t edit_distance(const std::string& left, const std::string& right) {
  std::vector<std::size_t> row(right.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < left.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < right.size(); ++j) {
      const std::size_t substituted = diagonal + (left[i] == right[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({substituted, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

std::vector<std::string> near_ids(const std::vector<MemoryEntry>& entries, const std::string& id) {
  std::vector<std::pair<std::size_t, std::string>> ranked;
  for (const MemoryEntry& entry : entries) ranked.emplace_back(edit_distance(entry.id, id), entry.id);
  const std::size_t kept = std::min(kNearIds, ranked.size());
  std::partial_sort(ranked.begin(), ranked.begin() + static_cast<std::ptrdiff_t>(kept), ranked.end());
  std::vector<std::string> ids;
  for (std::size_t i = 0; i < kept; ++i) ids.push_back(ranked[i].second);
  return ids;
}

void check_text(const MemoryEntry& entry) {
  if (entry.id.empty()) fail("memory: an entry needs an id that is not empty");
  try {
    const std::string unused = nlohmann::json({entry.id, entry.caption, entry.image}).dump();
  } catch (const nlohmann::json::exception& error) {
    fail("memory: an entry's id, caption and image have to be UTF-8: {}", error.what());
  }
}

at::Tensor double_rows(const at::Tensor& codes) { return codes.detach().to(at::kCPU, at::kDouble); }

}  // namespace

MemoryStore::MemoryStore(const at::Tensor& prior_mean, std::string fingerprint)
    : fingerprint_(std::move(fingerprint)) {
  const c10::NoGradGuard no_grad;
  TORCH_CHECK(prior_mean.dim() == 2 && prior_mean.size(0) >= 1 && prior_mean.size(0) < prior_mean.size(1),
              "MemoryStore: prior_mean [K, C] with 1 <= K < C expected, got ", prior_mean.sizes());
  prior_mean_ = prior_mean.detach().to(at::kCPU, at::kFloat).clone();
  reference_ = at::linalg_pinv(prior_mean_.to(at::kDouble));
  // ‖M_ref⁺‖²: what an address of a code with independent entries of mean square 1 is expected to have as its
  // square.
  ridge_ = kRidge * reference_.square().sum().item<double>();
  codes_ = at::empty({0, code_size()}, at::kFloat);
  clear();
}

void MemoryStore::clear() {
  reader_ = std::make_shared<ReaderOfNow>();
  memory_ = at::zeros({capacity(), code_size()}, at::kDouble);
  accumulator_ = ridge_ * at::eye(capacity(), at::kDouble);
}

void MemoryStore::write(const at::Tensor& code, const MemoryEntry& entry) {
  const c10::NoGradGuard no_grad;
  check_text(entry);
  if (find(entry.id) >= 0) {
    fail("memory: '{}' is already there (\"{}\"); forget it first", entry.id,
         entries_[static_cast<std::size_t>(find(entry.id))].caption);
  }
  const at::Tensor row = checked(code, fmt::format("the code of '{}'", entry.id));
  check_scale(row.unsqueeze(0), fmt::format("the code of '{}'", entry.id));
  codes_ = at::cat({codes_, row.unsqueeze(0)});
  entries_.push_back(entry);
  update(row, 1.0);
}

void MemoryStore::forget(const std::string& id) {
  const c10::NoGradGuard no_grad;
  const std::int64_t place = find(id);
  if (place < 0) {
    if (entries_.empty()) fail("memory: there is no '{}': the memory is empty", id);
    fail("memory: there is no '{}'; near: {}", id, fmt::join(near_ids(entries_, id), ", "));
  }
  const at::Tensor code = codes_[place].clone();
  codes_ = at::cat({codes_.slice(0, 0, place), codes_.slice(0, place + 1)});
  entries_.erase(entries_.begin() + static_cast<std::ptrdiff_t>(place));
  if (entries_.empty()) {
    // As new: rounding would leave a trace of what was forgotten.
    clear();
  } else {
    update(code, -1.0);
  }
}

void MemoryStore::update(const at::Tensor& code, double alpha) {
  reader_ = std::make_shared<ReaderOfNow>();
  const at::Tensor row = double_rows(code).unsqueeze(0);
  const at::Tensor address = addresses(row);
  const at::Tensor accumulator = accumulator_ + alpha * address.mT().matmul(address);
  const auto [factor, info] = at::linalg_cholesky_ex(accumulator);
  if (info.item<std::int32_t>() != 0) {
    // Rounding of many updates has eaten the ridge: once more from the codes.
    const Solution solution = solve_anew();
    accumulator_ = solution.accumulator;
    memory_ = solution.memory;
    return;
  }
  memory_ = memory_ + alpha * at::cholesky_solve(address.mT(), factor).matmul(row - address.matmul(memory_));
  accumulator_ = accumulator;
}

MemoryStore::Solution MemoryStore::solve_anew() const {
  const at::Tensor rows = double_rows(codes_);
  const at::Tensor keys = addresses(rows);
  const at::Tensor accumulator = ridge_ * at::eye(capacity(), at::kDouble) + keys.mT().matmul(keys);
  const at::Tensor factor = at::linalg_cholesky(accumulator);
  return {accumulator, at::cholesky_solve(keys.mT().matmul(rows), factor)};
}

void MemoryStore::check_scale(const at::Tensor& rows, const std::string& what) {
  const at::Tensor mean_square = double_rows(rows).square().mean(1);
  const at::Tensor off = (mean_square < 1 / kScale).logical_or(mean_square > kScale);
  if (off.any().item<bool>()) {
    const auto place = off.to(at::kInt).argmax().item<std::int64_t>();
    fail("memory: {} has mean square {:.3g}, expected about 1 ({} to {})", what,
         mean_square[place].item<double>(), 1 / kScale, kScale);
  }
}

at::Tensor MemoryStore::addresses(const at::Tensor& codes) const { return codes.matmul(reference_); }

std::int64_t MemoryStore::find(const std::string& id) const {
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&id](const MemoryEntry& entry) { return entry.id == id; });
  return found == entries_.end() ? -1 : found - entries_.begin();
}

at::Tensor MemoryStore::checked(const at::Tensor& code, const std::string& what) const {
  TORCH_CHECK(code.defined() && code.is_floating_point(), "MemoryStore: a code is floating point");
  if (code.dim() != 1 || code.size(0) != code_size()) {
    fail("memory: {} has shape [{}], expected [{}]", what, fmt::join(code.sizes().vec(), ", "), code_size());
  }
  const at::Tensor row = code.detach().to(at::kCPU, at::kFloat);
  if (!row.isfinite().all().item<bool>()) fail("memory: {} holds values that are not finite", what);
  if (row.count_nonzero().item<std::int64_t>() == 0) fail("memory: {} is zero, which says nothing", what);
  return row;
}

const MemoryStore::Reader& MemoryStore::reader() const {
  const std::lock_guard<std::mutex> lock(reader_->mutex);
  if (!reader_->reader) reader_->reader = solved_reader();
  return *reader_->reader;
}

MemoryStore::Reader MemoryStore::solved_reader() const {
  const auto [left, values, right] = at::linalg_svd(memory_, /*full_matrices=*/false);
  const double largest = values.numel() == 0 ? 0.0 : values[0].item<double>();
  const double cut_off = static_cast<double>(std::max(capacity(), code_size())) *
                         static_cast<double>(std::numeric_limits<float>::epsilon()) * largest;
  // N codes span at most N dimensions; a value beyond them is what rounding left of something forgotten.
  const std::int64_t rank =
      std::min((values > cut_off).sum().item<std::int64_t>(), static_cast<std::int64_t>(entries_.size()));
  Reader reader;
  reader.basis = right.slice(0, 0, rank).mT().contiguous();
  reader.condition = rank == 0 ? 0.0 : largest / values[rank - 1].item<double>();
  const double tolerance = static_cast<double>(std::max<std::int64_t>(codes_.size(0), code_size())) *
                           static_cast<double>(std::numeric_limits<float>::epsilon());
  reader.coefficients = codes_.size(0) == 0 ? at::zeros({code_size(), 0}, at::kDouble)
                                            : at::linalg_pinv(double_rows(codes_), tolerance);
  return reader;
}

at::Tensor MemoryStore::read(const at::Tensor& queries) const {
  const c10::NoGradGuard no_grad;
  TORCH_CHECK(queries.dim() == 2 && queries.size(1) == code_size(), "MemoryStore: queries [Q, ", code_size(),
              "] expected, got ", queries.sizes());
  const at::Tensor& basis = reader().basis;
  return double_rows(queries).matmul(basis).matmul(basis.mT()).to(at::kFloat);
}

Recollection MemoryStore::recall(const at::Tensor& query, std::int64_t nearest) const {
  const c10::NoGradGuard no_grad;
  const at::Tensor row = double_rows(checked(query, "the query"));
  if (entries_.empty()) return {.code = at::zeros({code_size()}, at::kFloat)};
  const Reader& reading = reader();
  const at::Tensor code = row.matmul(reading.basis).matmul(reading.basis.mT());
  const at::Tensor squares = code.matmul(reading.coefficients).square();
  const double known = code.square().sum().item<double>() / row.square().sum().item<double>();
  const double total = squares.sum().item<double>();
  const double share = total > 0 ? squares.max().item<double>() / total : 0.0;

  Recollection result{.code = code.to(at::kFloat), .confidence = std::clamp(known * share, 0.0, 1.0)};
  const at::Tensor written = double_rows(codes_);
  const at::Tensor lengths = written.norm(2, {1}, /*keepdim=*/false) * code.norm().clamp_min(1e-30);
  const at::Tensor similarity = (written.matmul(code) / lengths).clamp(-1, 1);
  const auto [values, places] =
      similarity.topk(std::clamp<std::int64_t>(nearest, 0, static_cast<std::int64_t>(entries_.size())));
  for (std::int64_t i = 0; i < values.size(0); ++i) {
    result.nearest.push_back(
        {entries_[static_cast<std::size_t>(places[i].item<std::int64_t>())], values[i].item<double>()});
  }
  return result;
}

MemoryStats MemoryStore::stats() const {
  const c10::NoGradGuard no_grad;
  const Reader& reading = reader();
  const at::Tensor refit = solve_anew().memory;
  const double largest = refit.abs().max().item<double>();
  const std::size_t bytes = prior_mean_.nbytes() + codes_.nbytes() + memory_.nbytes() + accumulator_.nbytes();
  return {.entries = static_cast<std::int64_t>(entries_.size()),
          .capacity = capacity(),
          .code_size = code_size(),
          .rank = reading.basis.size(1),
          .condition = reading.condition,
          .drift = largest > 0 ? (memory_ - refit).abs().max().item<double>() / largest : 0.0,
          .bytes = static_cast<std::int64_t>(bytes)};
}

}  // namespace tessera::memory
