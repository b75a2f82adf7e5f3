#include "lora/adapter_set.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.h"

namespace tessera::lora {

namespace {

/// ΔW = s·B·A in float64.
at::Tensor update_of(const nn::LoraAdapter& adapter) {
  return at::mm(adapter.b->weight.to(at::kDouble), adapter.a->weight.to(at::kDouble)) *
         adapter.options.scaling;
}

using Weighted = std::vector<std::pair<const nn::LoraAdapter*, double>>;

void fill_linear(nn::LoraAdapter& to, const Weighted& parts) {
  for (const auto& [part, weight] : parts) {
    const double scaled = weight * part->options.scaling;
    const double root = std::sqrt(std::abs(scaled));
    to.a->weight.add_(part->a->weight, scaled < 0 ? -root : root);
    to.b->weight.add_(part->b->weight, root);
  }
}

void fill_cat(nn::LoraAdapter& to, const Weighted& parts) {
  std::int64_t row = 0;
  for (const auto& [part, weight] : parts) {
    const std::int64_t end = row + part->options.r;
    to.a->weight.slice(0, row, end).copy_(part->a->weight * (weight * part->options.scaling));
    to.b->weight.slice(1, row, end).copy_(part->b->weight);
    row = end;
  }
}

void fill_svd(nn::LoraAdapter& to, const Weighted& parts) {
  at::Tensor sum = at::zeros({to.b->weight.size(0), to.a->weight.size(1)}, at::kDouble);
  for (const auto& [part, weight] : parts) sum.add_(update_of(*part), weight);
  const auto [u, s, vh] = at::linalg_svd(sum, /*full_matrices=*/false);
  const std::int64_t r = std::min(to.options.r, s.size(0));
  to.b->weight.slice(1, 0, r).copy_(u.slice(1, 0, r) * s.slice(0, 0, r));
  to.a->weight.slice(0, 0, r).copy_(vh.slice(0, 0, r));
}

}  // namespace

AdapterSet::AdapterSet(torch::nn::Module& root) : root_(root) {
  TORCH_CHECK(adapted_linears(root).empty(), "AdapterSet: the modules have adapters already");
}

AdapterSet::~AdapterSet() {
  if (merged_) unmerge();
  if (!in_use_.empty()) take_out(adapters_.at(in_use_));
}

const AdapterSet::Adapter& AdapterSet::of(const std::string& name) const {
  const auto found = adapters_.find(name);
  if (found == adapters_.end())
    fail("adapter \"{}\": there is none of this name; there {}", name,
         adapters_.empty() ? "are none" : fmt::format("is {}", fmt::join(names(), ", ")));
  return found->second;
}

void AdapterSet::check_new(const std::string& name) const {
  if (name.empty()) fail("an adapter needs a name");
  if (contains(name)) fail("adapter \"{}\": there is one of this name already", name);
}

AdapterSet::Adapter AdapterSet::make(const LoraOptions& options, std::uint64_t seed) {
  options.check("LoRA");
  const std::string present = in_use_;
  use("");  // begin from the base model's weights
  Adapter adapter{options, {}, {}, {}};
  try {
    const at::NoGradGuard no_grad;
    const at::Generator generator = at::detail::createCPUGenerator(seed);
    const auto parameters = root_.named_parameters();
    for (const NamedLinear& target : match_targets(root_, options)) {
      std::shared_ptr<nn::LoraAdapter> part =
          target.linear->make_adapter({.r = options.rank_of(target.name),
                                       .scaling = options.scaling_of(target.name),
                                       .dropout = options.lora_dropout,
                                       .dora = options.use_dora});
      const at::Tensor rest = initialise_adapter(*target.linear, *part, options.init, generator);
      if (rest.defined()) adapter.own[target.name + ".weight"] = rest;
      adapter.parts.emplace_back(target, std::move(part));
    }
    // Which biases belong to the adapter depends on which modules it adapts.
    for (const auto& [target, part] : adapter.parts) target.linear->use_adapter(part);
    adapter.saved = parameters_beside_adapters(root_, options);
    for (const auto& [target, part] : adapter.parts) target.linear->use_adapter(nullptr);
    for (const std::string& name : adapter.saved) adapter.own[name] = parameters[name].detach().clone();
  } catch (...) {
    for (const NamedLinear& item : adapted_linears(root_)) item.linear->use_adapter(nullptr);
    use(present);
    throw;
  }
  use(present);
  return adapter;
}

void AdapterSet::add(const std::string& name, const LoraOptions& options, std::uint64_t seed) {
  check_new(name);
  adapters_.emplace(name, make(options, seed));
}

void AdapterSet::load(const std::string& name, const std::filesystem::path& folder) {
  load(name, read_adapter(folder));
}

void AdapterSet::load(const std::string& name, const AdapterFiles& files) {
  check_new(name);
  const std::string present = in_use_;
  const LoraOptions options = options_for(root_, files);
  adapters_.emplace(name, make(options, /*seed=*/0));
  try {
    use(name);
    copy_adapter(options, files.tensors, root_, files.source);
  } catch (...) {
    remove(name);
    use(present);
    throw;
  }
  use(present);
}

void AdapterSet::save(const std::string& name, const std::filesystem::path& folder,
                      const AdapterDescription& description) {
  const LoraOptions& options = of(name).options;
  if (in_use_ == name) return save_adapter(folder, root_, options, description);
  const std::string present = in_use_;
  use(name);
  try {
    save_adapter(folder, root_, options, description);
  } catch (...) {
    use(present);
    throw;
  }
  use(present);
}

void AdapterSet::remove(const std::string& name) {
  of(name);
  if (in_use_ == name) use("");
  adapters_.erase(name);
}

void AdapterSet::exchange_own(Adapter& adapter) {
  auto parameters = root_.named_parameters();
  for (auto& [name, value] : adapter.own) {
    at::Tensor& parameter = parameters[name];
    const at::Tensor present = parameter.tensor_data();
    parameter.set_data(value);
    value = present;
  }
}

void AdapterSet::put_in(Adapter& adapter) {
  for (const auto& [target, part] : adapter.parts) target.linear->use_adapter(part);
  exchange_own(adapter);
}

void AdapterSet::take_out(Adapter& adapter) {
  exchange_own(adapter);
  for (const auto& [target, part] : adapter.parts) target.linear->use_adapter(nullptr);
}

void AdapterSet::use(const std::string& name) {
  if (name == in_use_) return;
  if (merged_) fail("adapter \"{}\" is merged; unmerge it before another is taken into use", in_use_);
  if (!name.empty()) of(name);
  if (!in_use_.empty()) take_out(adapters_.at(in_use_));
  in_use_ = name;
  if (!name.empty()) put_in(adapters_.at(name));
}

void AdapterSet::merge() {
  if (in_use_.empty()) fail("there is no adapter in use to merge");
  if (merged_) return;
  for (const auto& [target, part] : adapters_.at(in_use_).parts) target.linear->merge();
  merged_ = true;
}

void AdapterSet::unmerge() {
  if (!merged_) return;
  for (const auto& [target, part] : adapters_.at(in_use_).parts) target.linear->unmerge();
  merged_ = false;
}

std::vector<std::string> AdapterSet::names() const {
  std::vector<std::string> names;
  for (const auto& [name, adapter] : adapters_) names.push_back(name);
  return names;
}

TensorMap AdapterSet::parameters(const std::string& name) const {
  const Adapter& adapter = of(name);
  TensorMap parameters;
  for (const auto& [target, part] : adapter.parts) {
    parameters[target.name + ".lora_A.weight"] = part->a->weight;
    parameters[target.name + ".lora_B.weight"] = part->b->weight;
    if (part->options.dora) parameters[target.name + ".lora_magnitude_vector"] = part->magnitude;
  }
  const auto of_tree = root_.named_parameters();
  for (const std::string& own : adapter.saved)
    parameters[own] = in_use_ == name ? of_tree[own] : adapter.own.at(own);
  return parameters;
}

void check_combinable(const LoraOptions& options, const std::string& name) {
  std::string has;
  if (options.use_dora) has = "magnitudes (use_dora), which don't add up";
  if (options.bias != LoraBias::kNone || !options.modules_to_save.empty() ||
      takes_base_weights_apart(options.init))
    has = "parameters of the base model of its own (bias, modules_to_save, pissa, olora)";
  if (!has.empty()) fail("{} can't be combined: it has {}", name, has);
}

void AdapterSet::combine(const std::string& name, const std::vector<WeightedAdapter>& adapters,
                         AdapterCombination combination, std::int64_t rank) {
  check_new(name);
  if (adapters.empty()) fail("adapter \"{}\": there is nothing to combine", name);
  if (rank < 0) fail("adapter \"{}\": expected a rank of at least 1, found {}", name, rank);
  std::map<std::string, Weighted> by_module;
  std::map<std::string, NamedLinear> modules;
  std::int64_t greatest = 0, sum = 0;
  for (const auto& [part_name, weight] : adapters) {
    const Adapter& adapter = of(part_name);
    check_combinable(adapter.options, "adapter \"" + part_name + "\"");
    if (!std::isfinite(weight)) fail("adapter \"{}\": its weight is {}", part_name, weight);
    std::int64_t of_this = 0;
    for (const auto& [target, part] : adapter.parts) {
      for (const at::Tensor& side : {part->a->weight, part->b->weight}) {
        if (!side.isfinite().all().item<bool>())
          fail("adapter \"{}\": {} holds numbers that are not finite", part_name, target.name);
      }
      const std::int64_t most = std::min(target.linear->in_features(), target.linear->out_features());
      if (rank > most)
        fail("adapter \"{}\": rank {} is more than {} has ({})", name, rank, target.name, most);
      by_module[target.name].emplace_back(part.get(), weight);
      modules.emplace(target.name, target);
      of_this = std::max(of_this, part->options.r);
    }
    greatest = std::max(greatest, of_this);
    sum += of_this;
  }
  if (combination == AdapterCombination::kSvd && rank == 0) rank = greatest;
  Adapter made;
  const at::NoGradGuard no_grad;
  for (const auto& [module, parts] : by_module) {
    std::int64_t r = rank;
    if (combination == AdapterCombination::kCat) r = sum;
    if (combination == AdapterCombination::kLinear) {
      r = parts.front().first->options.r;
      for (const auto& [part, weight] : parts) {
        if (part->options.r != r)
          fail(
              "adapter \"{}\": {} has ranks {} and {}; \"linear\" adds adapters of one rank (\"cat\" and "
              "\"svd\" take any)",
              name, module, r, part->options.r);
      }
    }
    const NamedLinear& target = modules.at(module);
    // What is scaled is in the matrices already: s = 1, as PEFT has it.
    std::shared_ptr<nn::LoraAdapter> combined = target.linear->make_adapter({.r = r, .scaling = 1});
    switch (combination) {
      case AdapterCombination::kLinear:
        fill_linear(*combined, parts);
        break;
      case AdapterCombination::kCat:
        fill_cat(*combined, parts);
        break;
      case AdapterCombination::kSvd:
        fill_svd(*combined, parts);
        break;
    }
    made.options.target_modules.names.push_back(module);
    made.options.r = r;
    made.options.lora_alpha = static_cast<double>(r);
    made.parts.emplace_back(target, std::move(combined));
  }
  for (const auto& [target, part] : made.parts) {
    if (part->options.r != made.options.r) {
      made.options.rank_pattern.emplace_back(target.name, part->options.r);
      made.options.alpha_pattern.emplace_back(target.name, static_cast<double>(part->options.r));
    }
  }
  adapters_.emplace(name, std::move(made));
}

}  // namespace tessera::lora
