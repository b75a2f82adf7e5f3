#include "core/stop_signal.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>

namespace tessera {
namespace {

TEST(StopSignalTest, EveryRequestIsSeenAndMayComeAgain) {
  for (const int signal : {SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU}) {
    const StopSignal stop;
    EXPECT_EQ(stop.received(), 0);
    raise(signal);
    raise(signal);  // a scheduler's second way, or the shell's own SIGHUP
    EXPECT_EQ(stop.received(), signal);
  }
}

TEST(StopSignalDeathTest, SecondInterruptEndsTheProcess) {
  EXPECT_EXIT(
      {
        const StopSignal stop;
        raise(SIGINT);
        if (stop.received() != SIGINT) _exit(1);
        raise(SIGINT);
        _exit(0);
      },
      testing::KilledBySignal(SIGINT), "");
}

TEST(StopSignalTest, WhatIsIgnoredStaysIgnored) {
  std::signal(SIGHUP, SIG_IGN);  // as nohup starts a program
  {
    const StopSignal stop;
    raise(SIGHUP);
    EXPECT_EQ(stop.received(), 0);
  }
  EXPECT_EQ(std::signal(SIGHUP, SIG_DFL), SIG_IGN);
}

TEST(StopSignalTest, AReaderThatGoesAwayDoesNotEndTheProcess) {
  const auto before = std::signal(SIGPIPE, SIG_DFL);
  {
    const StopSignal stop;
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    close(ends[0]);
    EXPECT_EQ(write(ends[1], "x", 1), -1);
    close(ends[1]);
    EXPECT_EQ(stop.received(), 0);
  }
  EXPECT_EQ(std::signal(SIGPIPE, before), SIG_DFL);
}

TEST(StopSignalTest, WhatWasBeforeIsBackAfterwards) {
  { const StopSignal stop; }
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU}) {
    EXPECT_EQ(std::signal(signal, SIG_DFL), SIG_DFL) << signal;
  }
}

}  // namespace
}  // namespace tessera
