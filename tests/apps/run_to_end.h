#pragma once

#include <sys/wait.h>

#include <cstdio>
#include <string>

namespace tessera {

struct Finished {
  int exit_code = -1;
  std::string output;  ///< standard output and error together
};

/// Runs a shell command to its end.
inline Finished run_to_end(const std::string& command) {
  Finished finished;
  std::FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return finished;
  char buffer[4096];
  for (std::size_t count; (count = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;)
    finished.output.append(buffer, count);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) finished.exit_code = WEXITSTATUS(status);
  return finished;
}

}  // namespace tessera
