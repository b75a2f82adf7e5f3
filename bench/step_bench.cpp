// step_bench: how long the whole training step of a configuration takes, and where.

#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "bench/part_timer.h"
#include "bench/step_export.h"
#include "bench/step_under_test.h"
#include "command_line.h"
#include "core/error.h"

namespace tessera::bench {

namespace options = boost::program_options;

namespace {

constexpr double kKibPerMib = 1024.0;

/// User and system time of this process, all threads.
double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double peak_mib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / kKibPerMib;
}

struct Measured {
  StepTimes times;  ///< sums over the steps
  double cpu = 0;
  std::int64_t steps = 0;
};

Measured run_steps(StepUnderTest& step, std::int64_t steps) {
  Measured measured;
  const double cpu_before = cpu_seconds();
  for (std::int64_t i = 0; i < steps; ++i) {
    const StepTimes times = step.run();
    measured.times.compute += times.compute;
    measured.times.backward += times.backward;
    measured.times.update += times.update;
    measured.times.after_update += times.after_update;
  }
  measured.cpu = cpu_seconds() - cpu_before;
  measured.steps = steps;
  return measured;
}

/// Milliseconds a step.
nlohmann::json parts_json(StepUnderTest& step, std::int64_t steps) {
  nlohmann::json rows = nlohmann::json::array();
  const auto add = [&](const std::string& name, double forward, double backward) {
    const double scale = 1e3 / static_cast<double>(steps);
    rows.push_back({{"part", name}, {"forward_ms", forward * scale}, {"backward_ms", backward * scale}});
  };
  const PartTimer timer;
  const Measured measured = run_steps(step, steps);
  double forward = 0, backward = 0;
  for (const PartTime& part : timer.parts()) {
    forward += part.forward;
    backward += part.backward;
    if (!part.name.starts_with("(rest)")) add(part.name, part.forward, part.backward);
  }
  add("(rest)", measured.times.compute - forward, measured.times.backward - backward);
  add("optimizer", measured.times.update, 0);
  add("after update", measured.times.after_update, 0);
  return rows;
}

nlohmann::json run_json(StepUnderTest& step, std::int64_t steps) {
  const Measured measured = run_steps(step, steps);
  const double pairs = static_cast<double>(steps) * static_cast<double>(step.config().data.batch_size);
  return {{"steps", steps},
          {"pairs", pairs},
          {"seconds", measured.times.total()},
          {"cpu_seconds", measured.cpu},
          {"peak_mib", peak_mib()}};
}

/// Answers "run STEPS" and "parts STEPS", a line of JSON each, until "quit" or the end of input: a driver
/// takes turns between this program and another.
int serve(StepUnderTest& step) {
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string command;
    std::int64_t steps = 0;
    words >> command >> steps;
    if (command == "quit") break;
    if ((command != "run" && command != "parts") || steps < 1) {
      fail("serve: expected 'run STEPS', 'parts STEPS' or 'quit', found '{}'", line);
    }
    const nlohmann::json answer = command == "run" ? run_json(step, steps) : parts_json(step, steps);
    std::cout << answer.dump() << std::endl;
  }
  return apps::kDone;
}

void print_report(StepUnderTest& step, std::int64_t warm_up, std::int64_t steps) {
  const nlohmann::json first = run_json(step, warm_up);
  const nlohmann::json run = run_json(step, steps);
  std::printf("%s, batch %lld; first %lld steps %.1f pairs/s\n", step.compute().describe().c_str(),
              static_cast<long long>(step.config().data.batch_size), static_cast<long long>(warm_up),
              first["pairs"].get<double>() / first["seconds"].get<double>());
  std::printf(
      "%lld steps: %.1f pairs/s, %.2f ms a step, %.2f ms of CPU time a step, peak memory %.0f MiB\n\n",
      static_cast<long long>(steps), run["pairs"].get<double>() / run["seconds"].get<double>(),
      1e3 * run["seconds"].get<double>() / static_cast<double>(steps),
      1e3 * run["cpu_seconds"].get<double>() / static_cast<double>(steps), peak_mib());
  std::printf("%-18s %12s %12s %12s\n", "part", "forward ms", "backward ms", "sum ms");
  for (const nlohmann::json& row : parts_json(step, steps)) {
    const double forward = row["forward_ms"], backward = row["backward_ms"];
    std::printf("%-18s %12.2f %12.2f %12.2f\n", row["part"].get<std::string>().c_str(), forward, backward,
                forward + backward);
  }
}

options::options_description described_options() {
  options::options_description description("Options");
  // clang-format off
  description.add_options()
      ("config,c", options::value<std::string>(), "configuration file (YAML)")
      ("set,s", options::value<std::vector<std::string>>()->composing(), "KEY.PATH=VALUE, overrides a key of the file")
      ("phase", options::value<int>()->default_value(2), "1: LoRA frozen, 2: everything trains")
      ("batches", options::value<std::int64_t>()->default_value(8), "real batches to hold and take in turn")
      ("warm-up", options::value<std::int64_t>()->default_value(10), "steps before the measurement")
      ("steps", options::value<std::int64_t>()->default_value(20), "steps to measure")
      ("export", options::value<std::string>(),
       "after the warm-up write what another program needs to compute the same step, and ours' results, to this folder")
      ("serve", "measure on demand: read 'run STEPS' and 'parts STEPS' from standard input, answer in JSON");
  // clang-format on
  return description;
}

void export_to(const std::string& folder, Config config, BenchPhase phase, std::int64_t batches,
               std::int64_t warm_up) {
  const Config original = config;
  config.run.precision = PrecisionChoice::kFp32;
  config.compressor.dropout = 0;
  config.lora.lora_dropout = 0;
  config.memory.noise = 0;
  StepUnderTest step(config, phase, batches);
  run_steps(step, warm_up);
  export_step(step, original, folder);
}

int body(int argc, char** argv) {
  const auto parsed = apps::parse_options(
      "Measures the whole training step of a configuration: forward, backward, clipping, AdamW, queue.\n\n"
      "Usage: step_bench --config FILE [--set KEY=VALUE]... [--phase 1|2] [--export FOLDER | --serve]\n",
      described_options(), {argv + 1, argv + argc});
  if (!parsed) return apps::kDone;
  const options::variables_map& values = *parsed;
  if (values.count("config") == 0) throw ConfigError("--config FILE is missing; see step_bench --help");
  const int phase_number = values["phase"].as<int>();
  if (phase_number != 1 && phase_number != 2) {
    throw ConfigError(fmt::format("--phase: expected 1 or 2, found {}", phase_number));
  }
  for (const char* name : {"batches", "warm-up", "steps"}) {
    if (values[name].as<std::int64_t>() < 1)
      throw ConfigError(fmt::format("--{}: expected at least 1", name));
  }
  std::vector<std::string> overrides;
  if (values.count("set") != 0) overrides = values["set"].as<std::vector<std::string>>();
  const Config config = load_config(values["config"].as<std::string>(), overrides);
  const auto phase = static_cast<BenchPhase>(phase_number);
  const std::int64_t batches = values["batches"].as<std::int64_t>();
  const std::int64_t warm_up = values["warm-up"].as<std::int64_t>();

  if (values.count("export") != 0) {
    export_to(values["export"].as<std::string>(), config, phase, batches, warm_up);
    return apps::kDone;
  }
  StepUnderTest step(config, phase, batches);
  if (values.count("serve") != 0) return serve(step);
  print_report(step, warm_up, values["steps"].as<std::int64_t>());
  return apps::kDone;
}

}  // namespace
}  // namespace tessera::bench

int main(int argc, char** argv) {
  return tessera::apps::run_program("step_bench", [&] { return tessera::bench::body(argc, argv); });
}
