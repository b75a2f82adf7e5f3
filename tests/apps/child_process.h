#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <string>
#include <vector>

namespace tessera {

/// Starts a program in a process of its own, its output thrown away or sent to a descriptor.
/// @param ignored  a signal that it is started to ignore, as nohup does with SIGHUP; 0: none
inline pid_t start(const std::vector<std::string>& words, int output = -1, int ignored = 0) {
  const pid_t child = fork();
  if (child == 0) {
    if (ignored != 0) std::signal(ignored, SIG_IGN);
    const int out = output >= 0 ? output : open("/dev/null", O_WRONLY);
    dup2(out, STDOUT_FILENO);
    dup2(out, STDERR_FILENO);
    std::vector<char*> arguments;
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    execv(arguments[0], arguments.data());
    _exit(127);
  }
  return child;
}

/// Waits for a process: its exit code, or minus the signal that ended it.
inline int ending_of(pid_t child) {
  int status = 0;
  if (waitpid(child, &status, 0) != child) return -1000;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace tessera
