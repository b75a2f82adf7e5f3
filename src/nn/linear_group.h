#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "nn/frozen_cast.h"
#include "nn/linear.h"

namespace tessera::nn {

/// Linears of one shape that read the same input (query, key and value; gate and up), whose weights are
/// parameters of their own that lie one behind another in memory, so that frozen they are one product, of
/// which adapters' A sides are a second and their B sides added.
class LinearGroup {
 public:
  /// @param linears  registered with modules already; they are laid together
  explicit LinearGroup(std::vector<Linear> linears);

  /// Lays the parameters together again, after another device or type has parted them (PackedModule::pack).
  void pack();
  /// Whether the products are one now: frozen, still one behind another, and no adapter with DoRA in use,
  /// which scales what the product gives, row by row.
  bool is_one_product() const;
  bool has_active_adapter() const;

  /// Where they are one: the base products of an input […, in], side by side, […, count · out], without
  /// adapters.
  at::Tensor base_products(const at::Tensor& input);
  /// Where they are one: each Linear's output, [M, out], by that product and those of the adapters.
  /// @param rows [M, in]
  std::vector<at::Tensor> outputs(const at::Tensor& rows);

 private:
  std::vector<Linear> linears_;
  FrozenCast cast_;  ///< of all weights as one
};

}  // namespace tessera::nn
