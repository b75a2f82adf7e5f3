#include "core/finite.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <cmath>

#include "core/error.h"

namespace tessera {

bool is_finite(const at::Tensor& values) {
  if (!values.is_floating_point() || values.numel() == 0) return true;
  const at::Tensor plain = values.detach();
  // A NaN is both the least and the greatest. Of float8 nothing of the kind can be computed.
  const auto [least, greatest] = at::aminmax(plain.element_size() == 1 ? plain.to(at::kFloat) : plain);
  return least.isfinite().item<bool>() && greatest.isfinite().item<bool>();
}

std::string what_is_not_finite(const at::Tensor& values) {
  if (is_finite(values)) return {};
  const at::Tensor wide = values.detach().to(at::kCPU, at::kDouble);
  const at::Tensor places = wide.isfinite().logical_not().nonzero();
  const at::Tensor first = places[0];
  std::vector<std::int64_t> place;
  at::Tensor value = wide;
  for (std::int64_t dimension = 0; dimension < first.numel(); ++dimension) {
    place.push_back(first[dimension].item<std::int64_t>());
    value = value[place.back()];
  }
  // Whether a NaN has a sign depends on the processor that converted it, and says nothing.
  const double number = value.item<double>();
  return fmt::format("{} of {} values, the first {} at [{}]", places.size(0), values.numel(),
                     std::isnan(number) ? "nan" : fmt::format("{}", number), fmt::join(place, ", "));
}

void check_weights(const at::Tensor& values, const std::string& what) {
  const std::string found = what_is_not_finite(values);
  if (found.empty()) return;
  fail(
      "{}: not finite are {}: the file is damaged, or its training went wrong; take another copy or an "
      "earlier checkpoint",
      what, found);
}

void check_computed(const at::Tensor& rows, const std::string& what, const std::vector<std::string>& names) {
  if (is_finite(rows)) return;
  for (std::int64_t row = 0; row < rows.size(0); ++row) {
    const std::string found = what_is_not_finite(rows[row]);
    if (found.empty()) continue;
    const std::string name =
        names.empty() ? fmt::format("number {}", row) : names[static_cast<std::size_t>(row)];
    fail("{}: {} is not finite ({}), though the weights are: they are too large, or not of this model", name,
         what, found);
  }
}

}  // namespace tessera
