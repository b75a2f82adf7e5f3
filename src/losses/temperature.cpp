#include "losses/temperature.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cmath>

#include "core/error.h"

namespace tessera::losses {

Temperature::Temperature(double temperature, double minimum) : minimum_(minimum) {
  if (!(minimum > 0) || !(temperature >= minimum) || !std::isfinite(temperature)) {
    fail("temperature: expected 0 < minimum <= temperature, found temperature {} and minimum {}", temperature,
         minimum);
  }
  log_inverse_ = register_parameter("log_inverse", at::full({}, -std::log(temperature), at::kFloat));
}

at::Tensor Temperature::value() {
  const double limit = -std::log(minimum_);
  if (is_training()) {
    const at::NoGradGuard no_grad;
    log_inverse_.clamp_max_(limit);
  }
  const at::Tensor excess = (log_inverse_.detach() - limit).clamp_min(0);
  return (excess - log_inverse_).exp();
}

}  // namespace tessera::losses
