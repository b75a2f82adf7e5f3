#include "model_tool.h"
#include "config/run_config.h"

#include <cstdio>

#include "command_line.h"
#include "core/error.h"
#include "core/utf8.h"
#include "inference/encode_inputs.h"
#include "model/stage1_model.h"

namespace tessera::apps {

namespace options = boost::program_options;

namespace {

DeviceChoice device_of(const std::string& word) {
  if (word == "auto") return DeviceChoice::kAuto;
  if (word == "cpu") return DeviceChoice::kCpu;
  if (word == "cuda") return DeviceChoice::kCuda;
  throw ConfigError(fmt::format("--device: expected auto, cpu or cuda, found '{}'", word));
}

}  // namespace

void add_model_tool_options(options::options_description& description) {
  // clang-format off
  description.add_options()
      ("model,m", options::value<std::string>(),
       "a bundle (see tessera bundle) or a checkpoint folder (runs/NAME/checkpoints/latest, best, phase1 or "
       "step-NNNNNN)")
      ("checkpoint", options::value<std::string>(), "another name for --model")
      ("device", options::value<std::string>(), "auto, cpu or cuda; default: the model's run.device")
      ("threads", options::value<std::int64_t>(), "CPU threads; default: the model's run.threads");
  // clang-format on
}

std::string model_folder(const options::variables_map& values) {
  if (values.count("model") + values.count("checkpoint") != 1) {
    throw ConfigError("name one model with --model FOLDER (a bundle or a checkpoint); see --help");
  }
  return values[values.count("model") != 0 ? "model" : "checkpoint"].as<std::string>();
}

ModelTool::ModelTool(const options::variables_map& values, model::CheckpointAdapter adapter)
    : folder(model_folder(values)), loaded([&] {
        const auto start = std::chrono::steady_clock::now();
        model::LoadedModel from_files = model::load_model(folder, adapter);
        load_seconds = seconds_since(start);
        return from_files;
      }()) {
  if (values.count("device") != 0) loaded.config.run.device = device_of(values["device"].as<std::string>());
  if (values.count("threads") != 0) loaded.config.run.threads = count_of(values, "threads", 1);
  compute = choose_compute(loaded.config.run.device, loaded.config.run.precision, loaded.config.run.threads);
  loaded.model->to(compute.device);
  loaded.model->set_training(false);
}

std::vector<std::string> words_of(const options::variables_map& values, const char* name) {
  return values.count(name) != 0 ? values[name].as<std::vector<std::string>>() : std::vector<std::string>{};
}

std::int64_t count_of(const options::variables_map& values, const char* name, std::int64_t least) {
  const std::int64_t value = values[name].as<std::int64_t>();
  if (value < least)
    throw ConfigError(fmt::format("--{}: expected at least {}, found {}", name, least, value));
  return value;
}

void add_broken_fraction_option(options::options_description& description) {
  description.add_options()(
      "max-broken-fraction", options::value<double>(),
      "share of the samples that may be broken or incomplete, and are left out; default: the model's "
      "data.max_broken_fraction");
}

void apply_broken_fraction(const options::variables_map& values, Config& config) {
  if (values.count("max-broken-fraction") == 0) return;
  const auto share = values["max-broken-fraction"].as<double>();
  if (!(share >= 0 && share <= 1)) {
    throw ConfigError(fmt::format("--max-broken-fraction: expected a number from 0 to 1, found {}", share));
  }
  config.data.max_broken_fraction = share;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void FailedImages::read(const std::string& file, std::int64_t size,
                        const std::function<void(const at::Tensor&)>& use) {
  at::Tensor pixels;
  try {
    pixels = inference::read_image(file, size);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s: %s\n", program_.c_str(), error.what());
    failures_.push_back({{"image", file}, {"error", error.what()}});
    return;
  }
  use(pixels);
}

int FailedImages::exit_code() const { return failures_.empty() ? kDone : kFailure; }

void warn_of_cut_texts(const char* program, const inference::TrainedModel& trained,
                       const std::vector<std::string>& texts) {
  constexpr std::size_t kShown = 5;
  const std::int64_t most = trained.config.language.max_tokens;
  std::size_t cut = 0;
  for (const std::string& text : texts) {
    const std::size_t tokens = trained.tokenizer.encode(text).size();
    if (tokens <= static_cast<std::size_t>(most) || ++cut > kShown) continue;
    std::fprintf(stderr,
                 "%s: warning: %s has %zu tokens; the model reads the first %lld (language.max_tokens)\n",
                 program, quoted(text).c_str(), tokens, static_cast<long long>(most));
  }
  if (cut > kShown) std::fprintf(stderr, "%s: warning: so it is with %zu more\n", program, cut - kShown);
}

nlohmann::json utf8_json(nlohmann::json json) {
  if (json.is_string()) return as_utf8(json.get_ref<const std::string&>());
  if (json.is_array()) {
    for (nlohmann::json& item : json) item = utf8_json(std::move(item));
  } else if (json.is_object()) {
    nlohmann::json named = nlohmann::json::object();
    for (auto& [name, item] : json.items()) named[as_utf8(name)] = utf8_json(std::move(item));
    return named;
  }
  return json;
}

std::string dumped(const nlohmann::json& json) { return utf8_json(json).dump(2) + "\n"; }

}  // namespace tessera::apps
