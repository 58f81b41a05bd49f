// Checks every set of kernels that this machine runs, the layer and the thread pool, against references that are
// written from the descriptions of the formats. Built with the whole library; exit status 1 when a check fails.
//   selftest         everything
//   selftest pool    the thread pool alone, with many more jobs: for a thread sanitizer
#include <string.h>

#include <vector>

#include "selftest_attention.h"
#include "selftest_check.h"
#include "selftest_layer.h"
#include "selftest_matrix.h"
#include "selftest_planes.h"
#include "selftest_pool.h"
#include "selftest_products.h"
#include "selftest_rows.h"

extern "C" {
const char* fq_kernels(int i);
const char* fq_chosen_kernels();
int fq_choose_kernels(const char* name);
}

namespace {

using namespace selftest;

// The library knows what runs here; it tells the names.
std::vector<const fq::Kernels*> sets_of_this_machine() {
  const fq::Kernels* const compiled[] = {
#if defined(__x86_64__)
      &fq::kAvx512VbmiKernels, &fq::kAvx512Kernels, &fq::kAvx2Kernels,
#elif defined(__aarch64__)
      &fq::kNeonKernels,
#endif
      &fq::kPortableKernels,
  };
  snprintf(subject, sizeof subject, "choice of kernels");
  std::vector<const fq::Kernels*> found;
  CHECK(strcmp(fq_chosen_kernels(), fq_kernels(0)) == 0);
  for (int i = 0; fq_kernels(i); ++i) {
    for (const fq::Kernels* set : compiled)
      if (strcmp(set->name, fq_kernels(i)) == 0) found.push_back(set);
    CHECK(fq_choose_kernels(fq_kernels(i)) == 0 && strcmp(fq_chosen_kernels(), fq_kernels(i)) == 0);
    CHECK(static_cast<int>(found.size()) == i + 1);
  }
  CHECK(!found.empty() && found.back() == &fq::kPortableKernels);
  CHECK(fq_choose_kernels("none such") == -1);
  return found;
}

}  // namespace

int main(int argc, char** argv) {
  const bool pool_alone = argc > 1 && strcmp(argv[1], "pool") == 0;
  check_pool(pool_alone ? 20000 : 400);
  if (!pool_alone) {
    check_halves();
    for (const fq::Kernels* set : sets_of_this_machine()) {
      const long before = checks_passed;
      check_matrices(*set);
      check_extremes(*set);
      check_residuals(*set);
      check_planes(*set);
      check_tiny_activations(*set);
      check_rows(*set);
      check_attention(*set);
      check_layer(*set);
      check_whole_matrices(*set);
      printf("%s: %ld checks passed\n", set->name, checks_passed - before);
      fflush(stdout);
    }
  }
  printf("%ld checks passed\n", checks_passed);
  return 0;
}
