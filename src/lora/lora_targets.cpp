#include "lora/lora_targets.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <set>

#include "core/error.h"
#include "lora/lora.h"
#include "lora/module_names.h"
#include "lora/module_pattern.h"

namespace tessera::lora {

namespace {

/// The names that the options may call a module by.
class Names {
 public:
  Names(const ModuleNames& of_architecture, const LoraOptions& options)
      : of_architecture_(of_architecture), in_file_(options.in_file) {}

  std::vector<std::string> of(const std::string& path) const {
    return of_architecture_.names_of(path, in_file_);
  }
  /// Whether it holds for one of them.
  template <typename Predicate>
  bool any_of(const std::string& path, const Predicate& predicate) const {
    const std::vector<std::string> called = of(path);
    return std::any_of(called.begin(), called.end(), predicate);
  }
  bool is_output_head(const std::string& path) const {
    const std::vector<std::string_view>& heads = of_architecture_.output_heads;
    return std::find(heads.begin(), heads.end(), path) != heads.end();
  }
  bool match(const std::string& path, const std::string& target) const {
    return any_of(path, [&](const std::string& name) { return has_last_segments(name, target); });
  }

 private:
  const ModuleNames& of_architecture_;
  const std::optional<NamesInFile>& in_file_;
};

/// A ModuleSelection with its expression compiled.
class Selection {
 public:
  Selection(const ModuleSelection& selection, const char* field, const Names& names)
      : selection_(selection), names_(names) {
    if (!selection.pattern.empty()) pattern_.emplace(selection.pattern, field);
  }
  bool takes(const std::string& path) const {
    if (pattern_)
      return names_.any_of(path, [&](const std::string& name) { return pattern_->matches(name); });
    return (selection_.is_all_linear() && !names_.is_output_head(path)) ||
           std::any_of(selection_.names.begin(), selection_.names.end(),
                       [&](const std::string& target) { return names_.match(path, target); });
  }

 private:
  const ModuleSelection& selection_;
  const Names& names_;
  std::optional<ModulePattern> pattern_;
};

/// The number of the layer that a path leads through: PEFT's rule.
class LayerNumbers {
 public:
  explicit LayerNumbers(const LoraOptions& options) : wanted_(options.layers_to_transform) {
    if (options.layers_pattern.empty()) patterns_.emplace_back(".*?\\.[^.]*\\.(?P<idx>\\d+)\\..*", "layers");
    for (const std::string& name : options.layers_pattern)
      patterns_.emplace_back("(?:|.*?\\.)(?:" + name + ")\\.(?P<idx>\\d+)\\..*", "layers_pattern");
  }
  bool take(const std::string& path) const {
    if (wanted_.empty()) return true;
    const std::optional<std::int64_t> number = number_of(path);
    return number && std::find(wanted_.begin(), wanted_.end(), *number) != wanted_.end();
  }
  std::optional<std::int64_t> number_of(const std::string& path) const {
    for (const ModulePattern& pattern : patterns_) {
      const std::optional<std::string> number = pattern.group(path, "idx");
      if (number && number->size() <= 9) return std::stoll(*number);
    }
    return {};
  }

 private:
  const std::vector<std::int64_t>& wanted_;
  std::vector<ModulePattern> patterns_;
};

/// PEFT takes a module whose path merely ends in these letters.
bool is_saved_whole(const std::string& path, const std::vector<std::string>& modules_to_save,
                    const Names& names) {
  return std::any_of(modules_to_save.begin(), modules_to_save.end(), [&](const std::string& end) {
    return names.any_of(path, [&](const std::string& name) { return name.ends_with(end); });
  });
}

/// By its rule "embeddings" means embeddings and the patch_embeddings inside it, of which PEFT then makes a
/// file that it can't read.
void refuse_nested(const std::vector<std::string>& modules, const LoraOptions& options,
                   const ModuleNames& names) {
  for (const std::string& path : modules) {
    const std::string outer = path.substr(0, std::min(path.rfind('.'), path.size()));
    const std::string last = path.substr(path.rfind('.') + 1);
    for (const std::string& end : options.modules_to_save) {
      if (outer.size() < path.size() && last.size() > end.size() && last.ends_with(end) &&
          is_within_saved(outer, options, names))
        fail("modules_to_save: \"{}\" names {} and a module that it lies in, which PEFT can't read back", end,
             path);
    }
  }
}

/// What a reader of the message could have written: the last segments, in both namings.
std::set<std::string> last_segments(const std::vector<std::string>& paths, const ModuleNames& names) {
  std::set<std::string> segments;
  for (const std::string& path : paths) {
    for (const ModuleNaming naming : {ModuleNaming::kLegacy, ModuleNaming::kCurrent})
      segments.emplace(last_segment(names.renamed(path, naming)));
  }
  return segments;
}

std::set<std::string> candidates(const std::vector<NamedLinear>& linears, const ModuleNames& names) {
  std::vector<std::string> paths;
  for (const NamedLinear& module : linears) paths.push_back(module.name);
  return last_segments(paths, names);
}

}  // namespace

bool is_within_saved(const std::string& path, const LoraOptions& options, const ModuleNames& names) {
  for (std::size_t end = path.find('.'); !options.modules_to_save.empty(); end = path.find('.', end + 1)) {
    if (is_saved_whole(path.substr(0, end), options.modules_to_save, {names, options})) return true;
    if (end == std::string::npos) break;
  }
  return false;
}

std::vector<NamedLinear> named_linears(torch::nn::Module& root) {
  std::vector<NamedLinear> linears;
  for (const auto& item : root.named_modules(/*name_prefix=*/{}, /*include_self=*/false)) {
    if (auto* linear = dynamic_cast<nn::LinearImpl*>(item.value().get())) {
      linears.push_back({item.key(), linear});
    }
  }
  return linears;
}

std::vector<NamedLinear> adapted_linears(torch::nn::Module& root) {
  std::vector<NamedLinear> linears = named_linears(root);
  std::erase_if(linears, [](const NamedLinear& module) { return !module.linear->has_lora(); });
  return linears;
}

void refuse_unused_names(AdaptableModule& root, const LoraOptions& options) {
  const Names names(root.module_names(), options);
  const std::vector<NamedLinear> linears = named_linears(root), adapted = match_targets(root, options);
  for (const std::string& name : options.exclude_modules.names) {
    if (std::none_of(linears.begin(), linears.end(),
                     [&](const NamedLinear& module) { return names.match(module.name, name); }))
      fail("exclude_modules: \"{}\" matches no linear module; there are {}", name,
           fmt::join(candidates(linears, root.module_names()), ", "));
  }
  const auto check = [&](const auto& patterns, const char* field) {
    for (const auto& [key, value] : patterns) {
      if (std::none_of(adapted.begin(), adapted.end(), [&, key = key](const NamedLinear& module) {
            return pattern_names(key, field, names.of(module.name));
          }))
        fail("{}: \"{}\" matches no adapted module; there are {}", field, key,
             fmt::join(candidates(adapted, root.module_names()), ", "));
    }
  };
  check(options.rank_pattern, "rank_pattern");
  check(options.alpha_pattern, "alpha_pattern");
}

std::vector<NamedLinear> match_targets(AdaptableModule& root, const LoraOptions& options) {
  const Names names(root.module_names(), options);
  std::vector<NamedLinear> linears = named_linears(root);
  const ModuleSelection& wanted = options.target_modules;
  if (!wanted.is_all_linear() && !options.in_file) {
    for (const std::string& target : wanted.names) {
      const bool found = std::any_of(linears.begin(), linears.end(), [&](const NamedLinear& module) {
        return names.match(module.name, target);
      });
      if (!found) {
        fail(
            "target_modules: \"{}\" matches no linear module; there are {} (or \"all-linear\" alone for all)",
            target, fmt::join(candidates(linears, root.module_names()), ", "));
      }
    }
  }
  const Selection targets(wanted, "target_modules", names);
  const Selection excluded(options.exclude_modules, "exclude_modules", names);
  const LayerNumbers layers(options);
  std::vector<NamedLinear> meant;
  std::set<std::int64_t> layers_left_out;
  for (const NamedLinear& module : linears) {
    if (!targets.takes(module.name) || excluded.takes(module.name) ||
        is_within_saved(module.name, options, root.module_names()))
      continue;
    if (layers.take(module.name)) {
      meant.push_back(module);
    } else if (const auto number = layers.number_of(module.name)) {
      layers_left_out.insert(*number);
    }
  }
  if (meant.empty() && !layers_left_out.empty()) {
    fail("layers_to_transform: expected some of the layers {}, found {}", fmt::join(layers_left_out, ", "),
         fmt::join(options.layers_to_transform, ", "));
  }
  const bool is_name = std::any_of(linears.begin(), linears.end(), [&](const NamedLinear& module) {
    return !wanted.pattern.empty() && names.match(module.name, wanted.pattern);
  });
  if (meant.empty()) {
    fail("target_modules: {} matches no linear module{}{}; there are {}",
         wanted.pattern.empty() ? fmt::format("\"{}\"", fmt::join(wanted.names, "\", \""))
                                : fmt::format("the expression \"{}\"", wanted.pattern),
         options.exclude_modules.empty() && options.layers_to_transform.empty() &&
                 options.modules_to_save.empty()
             ? ""
             : " that exclude_modules, layers_to_transform and modules_to_save leave",
         is_name ? fmt::format(" by its whole path (a list, [{}], names ends of paths)", wanted.pattern) : "",
         linears.empty() ? "none"
                         : fmt::format("{}", fmt::join(candidates(linears, root.module_names()), ", ")));
  }
  return meant;
}

bool means_just(AdaptableModule& root, const LoraOptions& options, const std::set<std::string>& modules) {
  std::set<std::string> meant;
  try {
    for (const NamedLinear& module : match_targets(root, options)) meant.insert(module.name);
  } catch (const Error&) {
    return false;  // a name that means nothing
  }
  return meant == modules;
}

std::vector<std::string> parameters_beside_adapters(AdaptableModule& root, const LoraOptions& options) {
  const Names names(root.module_names(), options);
  std::vector<std::string> modules;
  for (const auto& item : root.named_modules(/*name_prefix=*/{}, /*include_self=*/false)) {
    if (!item.value()->parameters().empty()) modules.push_back(item.key());
  }
  for (const std::string& end : options.modules_to_save) {
    if (std::none_of(modules.begin(), modules.end(),
                     [&](const std::string& path) { return is_saved_whole(path, {end}, names); }))
      fail("modules_to_save: \"{}\" names no module; there are {}", end,
           fmt::join(last_segments(modules, root.module_names()), ", "));
  }
  refuse_nested(modules, options, root.module_names());
  std::set<std::string> adapted_biases;
  for (const NamedLinear& module : adapted_linears(root)) adapted_biases.insert(module.name + ".bias");
  std::vector<std::string> beside;
  for (const auto& item : root.named_parameters()) {
    const std::string& name = item.key();
    if (is_lora_parameter(name)) continue;
    const bool saved = is_within_saved(name.substr(0, name.rfind('.')), options, root.module_names());
    const bool is_bias = name.ends_with(".bias");
    const bool trains = options.bias == LoraBias::kAll        ? is_bias
                        : options.bias == LoraBias::kLoraOnly ? adapted_biases.count(name) != 0
                                                              : false;
    if (saved || trains) beside.push_back(name);
  }
  return beside;
}

}  // namespace tessera::lora
