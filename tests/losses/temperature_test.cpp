#include "losses/temperature.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "core/error.h"

namespace tessera::losses {
namespace {

TEST(Temperature, StartsWhereItIsToldWithOneZeroDimParameter) {
  Temperature temperature(0.07, 0.01);
  EXPECT_NEAR(temperature.value().item<double>(), 0.07, 1e-7);
  ASSERT_EQ(temperature.parameters().size(), 1u);
  EXPECT_EQ(temperature.named_parameters()["log_inverse"].dim(), 0);
}

TEST(Temperature, NeverLeavesItsFloorNorStaysThere) {
  Temperature temperature(0.02, 0.01);
  torch::optim::SGD optimizer(temperature.parameters(), torch::optim::SGDOptions(0.5));
  const auto descend = [&](double sign) {
    optimizer.zero_grad();
    // The logarithm, so that a step is the same at every τ.
    const at::Tensor value = temperature.value();
    EXPECT_GE(value.item<double>(), 0.01 * (1 - 1e-5));
    (sign * value.log()).backward();
    optimizer.step();
  };
  for (int i = 0; i < 50; ++i) {
    descend(1);
  }
  EXPECT_NEAR(temperature.value().item<double>(), 0.01, 1e-7);
  descend(-1);
  descend(-1);
  // Two steps of 0.5 in log τ from the floor: no way back from wherever 50 steps would have led.
  EXPECT_NEAR(temperature.value().item<double>(), 0.01 * std::exp(1.0), 1e-5);
}

TEST(Temperature, HoldsItsFloorInEvaluationWithoutTouchingTheParameter) {
  Temperature temperature(0.02, 0.01);
  temperature.eval();
  at::Tensor parameter = temperature.parameters().front();
  {
    const torch::NoGradGuard no_grad;
    parameter.fill_(10);
  }
  EXPECT_NEAR(temperature.value().item<double>(), 0.01, 1e-7);
  EXPECT_EQ(parameter.item<float>(), 10.0f);
  temperature.value().backward();
  EXPECT_NEAR(parameter.grad().item<double>(), -0.01, 1e-7) << "d exp(-x)/dx, straight at the floor";
}

TEST(Temperature, RefusesWhatIsNoTemperature) {
  EXPECT_THROW(Temperature(0.01, 0.02), Error);
  EXPECT_THROW(Temperature(0.07, 0.0), Error);
  EXPECT_THROW(Temperature(std::nan(""), 0.01), Error);
}

}  // namespace
}  // namespace tessera::losses
