// stage1_train: trains the model that a configuration file describes.

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "command_line.h"
#include "config/config.h"
#include "core/cpu_memory.h"
#include "core/error.h"
#include "core/stop_signal.h"
#include "train/dry_run.h"
#include "train/trainer.h"

namespace tessera::apps {

namespace options = boost::program_options;

namespace {

options::options_description described_options() {
  options::options_description description("Options");
  // clang-format off
  description.add_options()
      ("config,c", options::value<std::string>(), "configuration file (YAML)")
      ("set,s", options::value<std::vector<std::string>>()->composing(),
       "KEY.PATH=VALUE, overrides a key of the file; may be given many times")
      ("resume", options::value<std::string>()->implicit_value("latest"),
       "continue the run from its latest checkpoint, or from the checkpoint folder given (--resume PATH); later "
       "ones are set aside then")
      ("stop-after", options::value<std::int64_t>(),
       "stop once this many updates are done, with everything saved for --resume (the schedule is not shortened)")
      ("dry-run", "build the model, print parameters, phase lines and an estimate of memory, and stop; needs neither "
                  "data nor tokenizer")
      ("print-config", "print the resolved configuration and stop")
      ("help-config", options::value<std::string>()->implicit_value("yaml"),
       "print a commented default configuration (--help-config=markdown: the reference page) and stop");
  // clang-format on
  return description;
}

/// More than one process would each train alone and write into the same folder.
void refuse_several_ranks() {
  const char* world = std::getenv("WORLD_SIZE");
  if (world != nullptr && std::atoi(world) > 1) {
    throw ConfigError(
        fmt::format("WORLD_SIZE is {}: this build trains in one process; training over several ranks is "
                    "not in it yet",
                    world));
  }
}

/// What would end the process without a checkpoint: a reader of its output that goes away, and a file that
/// grows beyond a limit. Both are errors of the call that writes, then.
void survive_failing_writes() {
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
}

int train(const options::variables_map& values, const Config& config) {
  refuse_several_ranks();
  survive_failing_writes();
  train::TrainerOptions trainer_options;
  if (values.count("resume") != 0) trainer_options.resume = values["resume"].as<std::string>();
  if (values.count("stop-after") != 0) {
    trainer_options.stop_after = values["stop-after"].as<std::int64_t>();
    if (trainer_options.stop_after < 1) throw ConfigError("--stop-after: expected at least 1");
  }
  // Outlives the trainer: a request that is sent again ends nothing meanwhile.
  std::optional<StopSignal> stop;
  try {
    train::Trainer trainer(config, trainer_options);
    stop.emplace();
    trainer.run(*stop);
  } catch (const OutOfMemory& error) {
    fail(
        "{}. What needs less: vision.gradient_checkpointing, run.precision: bf16, a smaller data.batch_size "
        "(--dry-run estimates it)",
        error.what());
  }
  return kDone;
}

constexpr const char* kUsageText =
    "Trains a compact vision-language model by contrast.\n\n"
    "Usage: stage1_train --config FILE [--set KEY=VALUE]... [--resume [latest|PATH]]\n\n"
    "SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU save a checkpoint and end the run with exit code "
    "0.\n"
    "Exit codes: 0 done, 1 failed, 2 mistake in the configuration or on the command line.\n";

int body(int argc, char** argv) {
  const auto parsed =
      parse_options(kUsageText, described_options(),
                    join_optional_values({argv + 1, argv + argc}, {"--resume", "--help-config"}));
  if (!parsed) return kDone;
  const options::variables_map& values = *parsed;
  if (values.count("help-config") != 0) {
    const std::string format = values["help-config"].as<std::string>();
    if (format != "yaml" && format != "markdown") {
      throw ConfigError(fmt::format("--help-config: expected yaml or markdown, found '{}'", format));
    }
    std::cout << (format == "yaml" ? commented_default_config() : configuration_markdown());
    return kDone;
  }
  if (values.count("config") == 0) throw ConfigError("--config FILE is missing; see stage1_train --help");

  std::vector<std::string> overrides;
  if (values.count("set") != 0) overrides = values["set"].as<std::vector<std::string>>();
  const Config config = load_config(values["config"].as<std::string>(), overrides);
  if (values.count("print-config") != 0) {
    std::cout << to_yaml(config);
    return kDone;
  }
  if (values.count("dry-run") != 0) {
    std::cout << train::dry_run_report(config);
    return kDone;
  }
  return train(values, config);
}

}  // namespace
}  // namespace tessera::apps

int main(int argc, char** argv) {
  return tessera::apps::run_program("stage1_train", [&] { return tessera::apps::body(argc, argv); });
}
