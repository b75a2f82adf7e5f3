#include "lora/adapter_set.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <fmt/ranges.h>

#include <utility>

#include "core/error.h"

namespace tessera::lora {

AdapterSet::AdapterSet(AdaptableModule& root) : root_(root) {
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
      std::shared_ptr<nn::LoraAdapter> layer =
          target.linear->make_adapter(adapter_options(options, target.name, root_.module_names()));
      const at::Tensor rest = initialise_adapter(*target.linear, *layer, options.init, generator);
      if (rest.defined()) adapter.replacements[target.name + ".weight"] = rest;
      adapter.layers.emplace_back(target, std::move(layer));
    }
    // Which biases belong to the adapter depends on which modules it adapts.
    for (const auto& [target, layer] : adapter.layers) target.linear->use_adapter(layer);
    adapter.saved = parameters_beside_adapters(root_, options);
    for (const auto& [target, layer] : adapter.layers) target.linear->use_adapter(nullptr);
    for (const std::string& name : adapter.saved)
      adapter.replacements[name] = parameters[name].detach().clone();
  } catch (...) {
    for (const NamedLinear& module : adapted_linears(root_)) module.linear->use_adapter(nullptr);
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
  load(name, read_adapter(folder, root_.module_names()));
}

void AdapterSet::load(const std::string& name, const AdapterFiles& files) {
  check_new(name);
  const std::string present = in_use_;
  const LoraOptions options = options_for(root_, files);
  try {
    adapters_.emplace(name, make(options, /*seed=*/0));
  } catch (const Error& error) {
    fail("{}: {}{}", files.source, error.what(), hint_about_a_head(files.tensors, root_.module_names()));
  }
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

void AdapterSet::exchange_replacements(Adapter& adapter) {
  auto parameters = root_.named_parameters();
  for (auto& [name, value] : adapter.replacements) {
    at::Tensor& parameter = parameters[name];
    const at::Tensor present = parameter.tensor_data();
    parameter.set_data(value);
    value = present;
  }
}

void AdapterSet::put_in(Adapter& adapter) {
  for (const auto& [target, layer] : adapter.layers) target.linear->use_adapter(layer);
  exchange_replacements(adapter);
}

void AdapterSet::take_out(Adapter& adapter) {
  exchange_replacements(adapter);
  for (const auto& [target, layer] : adapter.layers) target.linear->use_adapter(nullptr);
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
  for (const auto& [target, layer] : adapters_.at(in_use_).layers) target.linear->merge();
  merged_ = true;
}

void AdapterSet::unmerge() {
  if (!merged_) return;
  for (const auto& [target, layer] : adapters_.at(in_use_).layers) target.linear->unmerge();
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
  for (const auto& [target, layer] : adapter.layers) {
    parameters[target.name + ".lora_A.weight"] = layer->a->weight;
    parameters[target.name + ".lora_B.weight"] = layer->b->weight;
    if (layer->options.dora) parameters[target.name + ".lora_magnitude_vector"] = layer->magnitude;
  }
  const auto of_tree = root_.named_parameters();
  for (const std::string& parameter : adapter.saved)
    parameters[parameter] = in_use_ == name ? of_tree[parameter] : adapter.replacements.at(parameter);
  return parameters;
}

}  // namespace tessera::lora
