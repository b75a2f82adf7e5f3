#include "lora/combine_adapters.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "core/error.h"
#include "lora/adapter_files.h"
#include "nn/linear.h"

namespace tessera::lora {

namespace {

/// s·B·A of one adapter for one module, with the adapter's weight.
struct WeightedUpdate {
  at::Tensor a, b;  ///< [r, in], [out, r], float32
  double scaling;
  double weight;

  std::int64_t rank() const { return a.size(0); }
};

/// One module in all adapters that have it.
struct CombinedModule {
  std::vector<WeightedUpdate> updates;
  std::int64_t in_features, out_features;
};

using LowRank = std::pair<at::Tensor, at::Tensor>;  ///< A, B

LowRank linear(const CombinedModule& module, const std::string& name) {
  const std::int64_t r = module.updates.front().rank();
  at::Tensor a = at::zeros({r, module.in_features}), b = at::zeros({module.out_features, r});
  for (const WeightedUpdate& update : module.updates) {
    if (update.rank() != r)
      fail("{} has ranks {} and {}; \"linear\" adds adapters of one rank (\"cat\" and \"svd\" take any)",
           name, r, update.rank());
    const double scaled = update.weight * update.scaling;
    const double root = std::sqrt(std::abs(scaled));
    a.add_(update.a, scaled < 0 ? -root : root);
    b.add_(update.b, root);
  }
  return {a, b};
}

LowRank stacked(const CombinedModule& module, std::int64_t rank) {
  at::Tensor a = at::zeros({rank, module.in_features}), b = at::zeros({module.out_features, rank});
  std::int64_t row = 0;
  for (const WeightedUpdate& update : module.updates) {
    const std::int64_t end = row + update.rank();
    a.slice(0, row, end).copy_(update.a * (update.weight * update.scaling));
    b.slice(1, row, end).copy_(update.b);
    row = end;
  }
  return {a, b};
}

LowRank approximated(const CombinedModule& module, std::int64_t rank) {
  at::Tensor sum = at::zeros({module.out_features, module.in_features}, at::kDouble);
  for (const WeightedUpdate& update : module.updates)
    sum.add_(nn::with_update(at::zeros_like(sum), update.a, update.b, update.scaling), update.weight);
  const auto [u, s, vh] = at::linalg_svd(sum, /*full_matrices=*/false);
  const std::int64_t held = std::min(rank, s.size(0));
  at::Tensor a = at::zeros({rank, module.in_features}), b = at::zeros({module.out_features, rank});
  b.slice(1, 0, held).copy_(u.slice(1, 0, held) * s.slice(0, 0, held));
  a.slice(0, 0, held).copy_(vh.slice(0, 0, held));
  return {a, b};
}

void check_combinable(const LoraOptions& options, const std::string& source) {
  std::string has;
  if (options.use_dora) has = "magnitudes (use_dora), which don't add up";
  if (options.bias != LoraBias::kNone || !options.modules_to_save.empty() ||
      takes_base_weights_apart(options.init))
    has = "parameters of the base model of its own (bias, modules_to_save, pissa, olora)";
  if (!has.empty()) fail("{} can't be combined: it has {}", source, has);
}

/// One of a module's matrices, finite and in float32.
at::Tensor side_of(const AdapterFiles& files, const std::string& module, const char* which) {
  const at::Tensor& side = matrix_of(files, module, which);
  if (!side.isfinite().all().item<bool>())
    fail("{}: {} holds numbers that are not finite", files.source, module);
  return side.to(at::kFloat);
}

/// What is combined, and the ranks that it may be of.
struct Combined {
  std::map<std::string, CombinedModule> modules;
  std::int64_t greatest_rank = 0;
  std::int64_t sum_of_ranks = 0;  ///< of each adapter's greatest
};

Combined modules_of(const std::vector<WeightedAdapter>& adapters) {
  Combined result;
  for (const auto& [given, weight] : adapters) {
    check_combinable(given.options, given.source);
    if (!std::isfinite(weight)) fail("{}: its weight is {}", given.source, weight);
    const AdapterFiles files = convert_adapter(without_wrapper(given), ModuleNaming::kCurrent);
    std::int64_t greatest_here = 0;
    for (const AdaptedModule& module : adapted_modules(files)) {
      CombinedModule& combined =
          result.modules.try_emplace(module.name, CombinedModule{{}, module.in_features, module.out_features})
              .first->second;
      if (combined.in_features != module.in_features || combined.out_features != module.out_features)
        fail("{}: {}: expected {} inputs and {} outputs as in the adapter before, found {} and {}",
             files.source, module.name, combined.in_features, combined.out_features, module.in_features,
             module.out_features);
      combined.updates.push_back({side_of(files, module.name, ".lora_A.weight"),
                                  side_of(files, module.name, ".lora_B.weight"), module.scaling, weight});
      greatest_here = std::max(greatest_here, module.r);
    }
    result.greatest_rank = std::max(result.greatest_rank, greatest_here);
    result.sum_of_ranks += greatest_here;
  }
  return result;
}

void refuse_other_architectures(const std::vector<WeightedAdapter>& adapters) {
  const AdapterFiles& first = adapters.front().files;
  for (const WeightedAdapter& adapter : adapters) {
    if (adapter.files.names == first.names) continue;
    fail("{} is an adapter of {}, {} of {}: those of one model are combined", first.source,
         first.names->architecture, adapter.files.source, adapter.files.names->architecture);
  }
}

}  // namespace

AdapterFiles combine_adapters(const std::vector<WeightedAdapter>& adapters, AdapterCombination combination,
                              std::int64_t rank) {
  if (adapters.empty()) fail("there are no adapters to combine");
  if (rank < 0) fail("expected a rank of at least 1, found {}", rank);
  refuse_other_architectures(adapters);
  const at::NoGradGuard no_grad;
  const Combined combined = modules_of(adapters);
  LoraOptions options;
  AdapterSelection selection;
  TensorMap tensors;
  for (const auto& [name, module] : combined.modules) {
    const std::int64_t most = std::min(module.in_features, module.out_features);
    if (rank > most) fail("rank {} is more than {} has ({})", rank, name, most);
    const auto [a, b] = combination == AdapterCombination::kLinear ? linear(module, name)
                        : combination == AdapterCombination::kCat
                            ? stacked(module, combined.sum_of_ranks)
                            : approximated(module, rank == 0 ? combined.greatest_rank : rank);
    tensors[kPeftPrefix + name + ".lora_A.weight"] = a;
    tensors[kPeftPrefix + name + ".lora_B.weight"] = b;
    // What is scaled is in the matrices already: s = 1, as PEFT has it.
    const std::int64_t r = a.size(0);
    if (selection.targets.empty()) {
      options.r = r;
      options.lora_alpha = static_cast<double>(r);
    } else if (r != options.r) {
      selection.ranks.emplace_back(name, r);
      selection.alphas.emplace_back(name, static_cast<double>(r));
    }
    selection.targets.push_back(name);
  }
  const AdapterFiles& first = adapters.front().files;
  AdapterDescription description;
  if (const auto base = first.config.find("base_model_name_or_path");
      base != first.config.end() && base->is_string())
    description.base_model_name_or_path = base->get<std::string>();
  return AdapterFiles::of(adapter_config_json(options, selection, description), std::move(tensors),
                          "the combined adapter", *first.names);
}

}  // namespace tessera::lora
