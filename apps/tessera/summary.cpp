#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "command_line.h"
#include "core/error.h"
#include "core/files.h"
#include "core/json_file.h"
#include "model_tool.h"
#include "tessera/commands.h"

namespace tessera::apps {

namespace options = boost::program_options;
namespace fs = std::filesystem;

namespace {

/// "setup=1.5,build=200" → {"setup": 1.5, "build": 200}.
nlohmann::json parse_seconds(const std::string& text) {
  nlohmann::json seconds = nlohmann::json::object();
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    const std::size_t equals = part.find('=');
    char* end = nullptr;
    const double value = equals == std::string::npos ? 0 : std::strtod(part.c_str() + equals + 1, &end);
    if (equals == std::string::npos || end == nullptr || *end != '\0') {
      throw ConfigError(fmt::format("--seconds: expected STAGE=SECONDS,…, found '{}'", part));
    }
    seconds[part.substr(0, equals)] = value;
  }
  return seconds;
}

/// Of each phase that the run's metrics tell of.
nlohmann::json trainable_parameters(const fs::path& metrics) {
  nlohmann::json counts = nlohmann::json::object();
  std::istringstream lines(read_file(metrics));
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json record = parse_json(line, metrics.string());
    if (!record.contains("trainable_parameters")) continue;
    counts[fmt::format("phase{}", record.at("phase").get<int>())] = record.at("trainable_parameters");
  }
  if (counts.empty()) fail("{}: holds no logged step that counts trainable_parameters", metrics.string());
  return counts;
}

nlohmann::json read_json(const fs::path& path) {
  nlohmann::json json = read_json_file(path);
  if (!json.is_object()) fail("{}: expected a JSON object", path.string());
  return json;
}

/// The figures of a phase: what stage1_eval wrote, without its list of captions.
nlohmann::json figures_of(const fs::path& path) {
  nlohmann::json figures = read_json(path);
  figures.erase("generated_captions");
  return figures;
}

/// What tessera memory experiment wrote, without its list of answers.
nlohmann::json memory_figures(const fs::path& path) {
  nlohmann::json figures = read_json(path);
  figures.erase("recalled_captions");
  return figures;
}

/// What a person looks at first, in a few lines.
void print_phase(const std::string& phase, const nlohmann::json& figures) {
  std::cout << fmt::format("{}: R@1 image→text {:.3f}, text→image {:.3f} on {} held-out images\n", phase,
                           figures.value("image_to_text_r1", 0.0), figures.value("text_to_image_r1", 0.0),
                           figures.value("images", 0));
  for (const std::string name : {"itm_accuracy", "itm_accuracy_hard", "caption_truth", "caption_facts"}) {
    if (!figures.contains(name)) continue;  // a run without that part
    std::cout << fmt::format("  {:<18}{:.3f}   by chance {:.3f}   with another image {:.3f}\n", name,
                             figures.value(name, 0.0), figures.value(name + "_chance", 0.0),
                             figures.value(name + "_swapped", 0.0));
  }
}

}  // namespace

int summary_command(const std::vector<std::string>& arguments) {
  options::options_description description("Options");
  // clang-format off
  description.add_options()
      ("run", options::value<std::string>()->required(), "the run's folder, with evaluation/phase1.json and phase2.json")
      ("seconds", options::value<std::string>()->default_value(""), "STAGE=SECONDS,…")
      ("output,o", options::value<std::string>()->required(), "the JSON file to write");
  // clang-format on
  const auto values = parse_options(
      "Gathers a quickstart's figures: retrieval, matching and captions by phase, what the memory recalled,\n"
      "seconds by stage, trainable parameters by phase.\n\n"
      "Usage: tessera summary --run FOLDER --output FILE [--seconds …]\n",
      description, arguments);
  if (!values) return kDone;

  const fs::path run = (*values)["run"].as<std::string>();
  nlohmann::json summary;
  for (const std::string phase : {"phase1", "phase2"}) {
    summary[phase] = figures_of(run / "evaluation" / (phase + ".json"));
  }
  if (const fs::path memory = run / "evaluation" / "memory.json"; fs::exists(memory)) {
    summary["memory"] = memory_figures(memory);
  }
  summary["seconds"] = parse_seconds((*values)["seconds"].as<std::string>());
  summary["trainable_parameters"] = trainable_parameters(run / "metrics.jsonl");
  const fs::path output = (*values)["output"].as<std::string>();
  write_file_atomically(output, dumped(summary));
  for (const std::string phase : {"phase1", "phase2"}) print_phase(phase, summary[phase]);
  return kDone;
}

}  // namespace tessera::apps
