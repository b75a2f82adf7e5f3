// tessera adapter: PEFT adapters of an image encoder or a language model, seen into, merged, renamed,
// combined and compared.

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

#include "command_line.h"
#include "core/error.h"
#include "core/files.h"
#include "core/json_file.h"
#include "core/publish_folder.h"
#include "core/weights_file.h"
#include "fusion/fusion_tower.h"
#include "language/huggingface_export.h"
#include "language/llama_names.h"
#include "lora/adapter_files.h"
#include "lora/combine_adapters.h"
#include "model_tool.h"
#include "tessera/commands.h"
#include "tessera/subcommands.h"
#include "vision/encoder_families.h"
#include "vision/encoder_files.h"

namespace tessera::apps {

namespace options = boost::program_options;
namespace fs = std::filesystem;

namespace {

using Json = nlohmann::json;
using Words = std::vector<std::string>;
using lora::AdaptedModule;
using lora::AdapterFiles;
using lora::ModuleNaming;

ModuleNaming naming_from(const std::string& word) {
  if (word == "current") return ModuleNaming::kCurrent;
  if (word == "legacy") return ModuleNaming::kLegacy;
  throw ConfigError(fmt::format("--naming: expected current or legacy, found {}", word));
}

const char* word_of(ModuleNaming naming) { return naming == ModuleNaming::kCurrent ? "current" : "legacy"; }

/// What the modules of the models are called that adapters can be of.
std::vector<const lora::ModuleNames*> architectures() {
  std::vector<const lora::ModuleNames*> all;
  for (const vision::EncoderFamily& family : vision::encoder_families()) {
    if (family.module_names != nullptr) all.push_back(&family.module_names());
  }
  all.insert(all.end(), {&language::llama_module_names(), &fusion::fusion_module_names()});
  return all;
}

/// Of the architecture that its keys are of, or where they tell of none, of the first.
AdapterFiles read(const std::string& folder) {
  const std::vector<const lora::ModuleNames*> all = architectures();
  AdapterFiles files = lora::read_adapter(folder, *all.front());
  const auto found = std::find_if(all.begin(), all.end(),
                                  [&](const lora::ModuleNames* names) { return lora::is_of(files, *names); });
  if (found == all.end() || *found == all.front()) return files;
  return AdapterFiles::of(std::move(files.config), std::move(files.tensors), std::move(files.source),
                          **found);
}

std::string text_of(const options::variables_map& values, const char* name) {
  return values[name].as<std::string>();
}

void refuse_existing(const fs::path& output) {
  if (fs::exists(output)) fail("{}: exists already; --output names a folder to make", output.string());
}

// --- inspect ---

std::string in_words(const lora::ModuleSelection& modules) {
  return modules.pattern.empty() ? fmt::format("{}", fmt::join(modules.names, ", "))
                                 : fmt::format("expression {}", modules.pattern);
}

Json inspection(const AdapterFiles& files) {
  const lora::LoraOptions& lora = files.options;
  Json json = {{"folder", files.source},
               {"naming", word_of(lora::naming_of(files))},
               {"r", lora.r},
               {"lora_alpha", lora.lora_alpha},
               {"scaling", lora.scaling()},
               {"use_rslora", lora.use_rslora},
               {"use_dora", lora.use_dora},
               {"bias", lora::bias_word(lora.bias)},
               {"init_lora_weights", lora::init_word(lora.init)},
               {"target_modules", in_words(lora.target_modules)},
               {"exclude_modules", in_words(lora.exclude_modules)},
               {"layers_to_transform", lora.layers_to_transform},
               {"rank_pattern", lora.rank_pattern},
               {"alpha_pattern", lora.alpha_pattern},
               {"lora_dropout", lora.lora_dropout},
               {"modules_to_save", lora.modules_to_save},
               {"base_model", files.config.value("base_model_name_or_path", nlohmann::ordered_json())},
               {"modules", Json::array()}};
  std::int64_t parameters = 0, others = 0;
  std::map<std::string, std::int64_t> dtypes;
  for (const auto& [key, tensor] : files.tensors) {
    parameters += tensor.numel();
    ++dtypes[c10::getDtypeNames(tensor.scalar_type()).first];
    if (key.find(".lora_") == std::string::npos) others += tensor.numel();
  }
  json["parameters"] = parameters;
  json["parameters_beside_adapters"] = others;
  json["tensors_by_dtype"] = dtypes;
  for (const AdaptedModule& module : lora::adapted_modules(files)) {
    json["modules"].push_back({{"name", module.name},
                               {"r", module.r},
                               {"scaling", module.scaling},
                               {"in_features", module.in_features},
                               {"out_features", module.out_features},
                               {"update_norm", lora::weight_update(files, module).norm().item<double>()}});
  }
  return json;
}

int inspect(const Words& arguments) {
  options::options_description description("Options");
  // clang-format off
  description.add_options()
      ("adapter", options::value<std::string>()->required(), "PEFT folder")
      ("json", "print one JSON object instead of lines for people");
  // clang-format on
  const auto values = parse_options(
      "Says what an adapter is made of: its configuration, and for each module its rank, its scaling and the "
      "norm of what\n"
      "it adds to the weight (s B A).\n\n"
      "Usage: tessera adapter inspect FOLDER [--json]\n",
      description, arguments, options::positional_options_description().add("adapter", 1));
  if (!values) return kDone;
  const Json json = inspection(read(text_of(*values, "adapter")));
  if (values->count("json") != 0) {
    std::cout << dumped(json);
    return kDone;
  }
  for (const char* field :
       {"base_model", "naming", "target_modules", "exclude_modules", "layers_to_transform", "r", "lora_alpha",
        "scaling", "use_rslora", "use_dora", "lora_dropout", "bias", "init_lora_weights", "modules_to_save",
        "parameters", "tensors_by_dtype"}) {
    const Json& value = json[field];
    if (value.is_null() || value == "" || (value.is_array() && value.empty())) continue;
    std::cout << fmt::format("{:<20} {}\n", field,
                             value.is_string() ? value.get<std::string>() : value.dump());
  }
  std::size_t width = 6;
  for (const Json& module : json["modules"])
    width = std::max(width, module["name"].get<std::string>().size());
  std::cout << fmt::format("\n{:<{}}  {:>5} {:>9} {:>13} {:>12}\n", "module", width, "r", "scaling",
                           "out x in", "|s B A|");
  for (const Json& module : json["modules"]) {
    std::cout << fmt::format("{:<{}}  {:>5} {:>9.4g} {:>13} {:>12.5g}\n", module["name"].get<std::string>(),
                             width, module["r"].get<std::int64_t>(), module["scaling"].get<double>(),
                             fmt::format("{} x {}", module["out_features"].get<std::int64_t>(),
                                         module["in_features"].get<std::int64_t>()),
                             module["update_norm"].get<double>());
  }
  return kDone;
}

// --- merge ---

bool is_language_model(const fs::path& model) {
  const fs::path config = model / "config.json";
  return fs::exists(config) && read_json_file(config).value("model_type", Json()) == "llama";
}

void merge_into_language_model(const AdapterFiles& adapter, const fs::path& model_folder,
                               const fs::path& output) {
  language::LanguageModel model = language::load_hugging_face(model_folder);
  lora::load_adapter(adapter, *model);
  lora::merge_lora(*model);
  language::save_changed_weights(model, model_folder, output);
}

void merge_into_encoder(const AdapterFiles& adapter, const fs::path& model_folder, const fs::path& output) {
  const auto model = vision::load_encoder(model_folder);
  lora::load_adapter(adapter, *model);
  lora::merge_lora(*model);
  const fs::path processor = (fs::is_directory(model_folder) ? model_folder : model_folder.parent_path()) /
                             "preprocessor_config.json";
  publish_folder(
      output,
      [&](const fs::path& fresh) {
        vision::save_encoder(fresh, *model, model->preprocessing(), stored_dtype(model_folder));
        if (fs::exists(processor))
          write_file_atomically(fresh / "preprocessor_config.json", read_file(processor));
      },
      OldFolder::kRefuse);
}

int merge(const Words& arguments) {
  options::options_description description("Options");
  // clang-format off
  description.add_options()
      ("adapter", options::value<std::string>()->required(), "PEFT folder")
      ("model,m", options::value<std::string>()->required(), "what it belongs to: a DINOv2 folder or file, or a LlamaForCausalLM folder")
      ("output,o", options::value<std::string>()->required(), "the folder to make");
  // clang-format on
  const auto values = parse_options(
      "Adds an adapter to the weights of its model (W + s B A, summed in float64) and writes a plain folder\n"
      "that transformers and Tessera read. The weights have the type that the model's have; what prepares "
      "its\n"
      "input (preprocessor_config.json, a tokenizer's files) goes with them.\n\n"
      "Usage: tessera adapter merge FOLDER --model FOLDER --output FOLDER\n",
      description, arguments, options::positional_options_description().add("adapter", 1));
  if (!values) return kDone;
  const fs::path output = text_of(*values, "output"), model_folder = text_of(*values, "model");
  refuse_existing(output);
  const AdapterFiles adapter = read(text_of(*values, "adapter"));
  if (adapter.names == &fusion::fusion_module_names()) {
    fail(
        "{}: is an adapter of the fusion, which lies in a checkpoint alone: tessera bundle --merge-lora "
        "merges it",
        adapter.source);
  }
  (is_language_model(model_folder) ? merge_into_language_model : merge_into_encoder)(adapter, model_folder,
                                                                                     output);
  std::cout << output.string() << "\n";
  return kDone;
}

// --- convert ---

int convert(const Words& arguments) {
  options::options_description description("Options");
  // clang-format off
  description.add_options()
      ("adapter", options::value<std::string>()->required(), "PEFT folder")
      ("naming", options::value<std::string>()->default_value("current"),
       "current: transformers 5 (q_proj, …); legacy: before (query, …)")
      ("backbone-only", "of an adapter of a model with a head (Dinov2ForImageClassification) take what belongs to "
       "the backbone, and leave the head out")
      ("output,o", options::value<std::string>()->required(), "the folder to make");
  // clang-format on
  const auto values = parse_options(
      "Renames the modules of an adapter, so that an adapter made with an older transformers loads in a "
      "current one, or\n"
      "the other way round. The tensors stay what they are, byte for byte.\n\n"
      "Usage: tessera adapter convert FOLDER --output FOLDER [--naming current|legacy] [--backbone-only]\n",
      description, arguments, options::positional_options_description().add("adapter", 1));
  if (!values) return kDone;
  const fs::path output = text_of(*values, "output");
  refuse_existing(output);
  const ModuleNaming naming = naming_from(text_of(*values, "naming"));
  AdapterFiles files = read(text_of(*values, "adapter"));
  if (files.names->aliases.empty()) {
    fail(
        "{}: is an adapter of {}, whose modules have one naming and no head apart: there is nothing to "
        "convert",
        files.source, files.names->architecture);
  }
  if (values->count("backbone-only") != 0) files = lora::without_head(files);
  lora::write_adapter(output, lora::convert_adapter(files, naming));
  std::cout << output.string() << "\n";
  return kDone;
}

// --- combine ---

/// "FOLDER" or "FOLDER=WEIGHT". A folder's name may have "=" in it, and even end like a weight.
std::pair<std::string, double> weighted(const std::string& word) {
  const std::size_t at = word.rfind('=');
  if (at == std::string::npos || word.find('/', at) != std::string::npos) return {word, 1.0};
  const std::string folder = word.substr(0, at), number = word.substr(at + 1);
  if (fs::is_directory(word)) {
    if (!fs::is_directory(folder)) return {word, 1.0};
    throw ConfigError(
        fmt::format("{0}: there are folders {0} and {1}; write {0}/ for the one, {1}/={2} for the "
                    "other with a weight",
                    word, folder, number));
  }
  std::size_t end = 0;
  double weight = 0;
  try {
    weight = std::stod(number, &end);
  } catch (const std::exception&) {
    end = 0;
  }
  if (number.empty() || end != number.size() || !std::isfinite(weight)) {
    throw ConfigError(
        fmt::format("{}: expected a folder, or FOLDER=WEIGHT with a number, found no such folder "
                    "and \"{}\"",
                    word, number));
  }
  return {folder, weight};
}

lora::AdapterCombination combination_from(const std::string& word) {
  if (word == "linear") return lora::AdapterCombination::kLinear;
  if (word == "cat") return lora::AdapterCombination::kCat;
  if (word == "svd") return lora::AdapterCombination::kSvd;
  throw ConfigError(fmt::format("--type: expected linear, cat or svd, found {}", word));
}

int combine(const Words& arguments) {
  options::options_description description("Options");
  // clang-format off
  description.add_options()
      ("adapter", options::value<Words>()->required(), "PEFT folders, each with its weight: FOLDER or FOLDER=WEIGHT")
      ("type", options::value<std::string>()->default_value("cat"),
       "cat: exactly the weighted sum, the ranks add up; svd: its best approximation of a given rank; linear: the "
       "matrices' weighted sums, a rough mean of adapters of one rank")
      ("rank", options::value<std::int64_t>()->default_value(0), "of svd; 0: the greatest of the adapters'")
      ("naming", options::value<std::string>()->default_value("current"), "of the result: current or legacy")
      ("output,o", options::value<std::string>()->required(), "the folder to make");
  // clang-format on
  const auto values = parse_options(
      "Makes one adapter of several, as PEFT's add_weighted_adapter does.\n\n"
      "Usage: tessera adapter combine FOLDER[=WEIGHT]... --output FOLDER [--type cat|svd|linear] [--rank "
      "N]\n",
      description, arguments, options::positional_options_description().add("adapter", -1));
  if (!values) return kDone;
  const auto type = combination_from(text_of(*values, "type"));
  const ModuleNaming naming = naming_from(text_of(*values, "naming"));
  const std::int64_t rank = (*values)["rank"].as<std::int64_t>();
  if (rank != 0 && type != lora::AdapterCombination::kSvd)
    throw ConfigError("--rank: says the rank of --type svd; the others' follows from the adapters");
  const fs::path output = text_of(*values, "output");
  refuse_existing(output);
  std::vector<lora::WeightedAdapter> adapters;
  for (const std::string& word : (*values)["adapter"].as<Words>()) {
    const auto [folder, weight] = weighted(word);
    adapters.push_back({read(folder), weight});
  }
  lora::write_adapter(output, lora::convert_adapter(lora::combine_adapters(adapters, type, rank), naming));
  std::cout << output.string() << "\n";
  return kDone;
}

// --- diff ---

/// One of two adapters that are compared.
struct Side {
  std::string folder;
  AdapterFiles files;  ///< in the current naming, without a wrapper's prefix
  std::map<std::string, AdaptedModule> modules;
  TensorMap others;  ///< tensors beside A and B

  explicit Side(const std::string& folder)
      : folder(folder),
        files(lora::convert_adapter(lora::without_wrapper(read(folder)), ModuleNaming::kCurrent)),
        others(files.tensors) {
    for (const AdaptedModule& module : lora::adapted_modules(files)) modules[module.name] = module;
    std::erase_if(others, [](const auto& item) {
      return item.first.find(".lora_A.") != std::string::npos ||
             item.first.find(".lora_B.") != std::string::npos;
    });
  }
};

/// Lines for people, one a difference.
using Lines = std::vector<std::string>;

template <typename Map>
void say_what_one_lacks(const Map& one, const Map& other, const std::string& folder, Lines& lines) {
  for (const auto& [name, item] : one) {
    if (other.count(name) == 0) lines.push_back(fmt::format("{}: only in {}", name, folder));
  }
}

void compare_modules(const Side& one, const Side& other, double tolerance, Lines& lines) {
  say_what_one_lacks(one.modules, other.modules, one.folder, lines);
  say_what_one_lacks(other.modules, one.modules, other.folder, lines);
  for (const auto& [name, module] : one.modules) {
    const auto found = other.modules.find(name);
    if (found == other.modules.end()) continue;
    const at::Tensor a = lora::weight_update(one.files, module),
                     b = lora::weight_update(other.files, found->second);
    if (a.sizes() != b.sizes()) {
      lines.push_back(
          fmt::format("{}: [{}] and [{}]", name, fmt::join(a.sizes(), ", "), fmt::join(b.sizes(), ", ")));
      continue;
    }
    const double norm = std::max(a.norm().item<double>(), b.norm().item<double>());
    const double apart = norm > 0 ? (a - b).norm().item<double>() / norm : 0;
    if (!(apart <= tolerance))
      lines.push_back(fmt::format("{}: r {} and {}, updates {:.3g} of the greater norm ({:.5g}) apart", name,
                                  module.r, found->second.r, apart, norm));
  }
}

void compare_others(const Side& one, const Side& other, Lines& lines) {
  say_what_one_lacks(one.others, other.others, one.folder, lines);
  say_what_one_lacks(other.others, one.others, other.folder, lines);
  for (const auto& [key, tensor] : one.others) {
    const auto found = other.others.find(key);
    if (found != other.others.end() && !at::equal(tensor.to(at::kDouble), found->second.to(at::kDouble)))
      lines.push_back(fmt::format("{}: differs", key));
  }
}

/// What changes what is computed, or how the adapter would train on; targets, ranks and α show in the
/// modules.
void compare_options(const AdapterFiles& one, const AdapterFiles& other, Lines& lines) {
  const auto compare = [&](const char* field, const auto& a, const auto& b) {
    if (a != b) lines.push_back(fmt::format("{}: {} and {}", field, a, b));
  };
  const lora::LoraOptions &a = one.options, &b = other.options;
  compare("use_dora", a.use_dora, b.use_dora);
  compare("init_lora_weights", std::string(lora::init_word(a.init)), std::string(lora::init_word(b.init)));
  compare("bias", std::string(lora::bias_word(a.bias)), std::string(lora::bias_word(b.bias)));
  compare("lora_dropout", a.lora_dropout, b.lora_dropout);
  compare("modules_to_save", fmt::format("[{}]", fmt::join(a.modules_to_save, ", ")),
          fmt::format("[{}]", fmt::join(b.modules_to_save, ", ")));
}

int diff(const Words& arguments) {
  options::options_description description("Options");
  // clang-format off
  description.add_options()
      ("adapters", options::value<Words>()->required(), "two PEFT folders, in any naming")
      ("tolerance", options::value<double>()->default_value(0),
       "how far updates may be apart, as a share of the greater norm, and still count as the same");
  // clang-format on
  const auto values = parse_options(
      "Compares what two adapters add to the weights, module by module, the tensors that they bring beside, "
      "and the\n"
      "options that change what is computed or how they train. Ends with 0 where they are the same, with 1 "
      "where they\n"
      "differ, with 2 where one can't be read.\n\n"
      "Usage: tessera adapter diff FOLDER FOLDER [--tolerance X]\n",
      description, arguments, options::positional_options_description().add("adapters", -1));
  if (!values) return kDone;
  const Words folders = (*values)["adapters"].as<Words>();
  if (folders.size() != 2) throw ConfigError(fmt::format("expected two folders, found {}", folders.size()));
  Lines lines;
  try {
    const Side one(folders[0]), other(folders[1]);
    compare_options(one.files, other.files, lines);
    compare_modules(one, other, (*values)["tolerance"].as<double>(), lines);
    compare_others(one, other, lines);
  } catch (const Error& error) {
    std::fprintf(stderr, "tessera adapter diff: %s\n", error.what());
    return kUsage;  // as of diff(1): 1 would mean that they differ
  }
  for (const std::string& line : lines) std::cout << line << "\n";
  if (lines.empty()) std::cout << "the same\n";
  return lines.empty() ? kDone : kFailure;
}

constexpr Subcommand kActions[] = {
    {"inspect", inspect, "say what an adapter is made of"},
    {"merge", merge, "add an adapter to its model's weights: a plain DINOv2 or Llama folder"},
    {"convert", convert, "rename the modules: for an older or a current transformers"},
    {"combine", combine, "make one adapter of several"},
    {"diff", diff, "compare two adapters"},
};

}  // namespace

int adapter_command(const Words& arguments) {
  return run_subcommand({"tessera adapter", "action",
                         "PEFT adapters of an image encoder, a language model or the fusion.", kActions},
                        arguments);
}

}  // namespace tessera::apps
