/* Adds a vector up over all ranks, from C. Run it alone or under mpirun. */

#include <scalecom/c_api.h>
#include <stdio.h>

static int fail(void) {
  fprintf(stderr, "%s\n", scalecom_last_error());
  return 1;
}

int main(void) {
  if (scalecom_init() != 0) return fail();
  scalecom_topology topology;
  if (scalecom_get_topology(&topology) != 0) return fail();

  double values[4] = {1, 2, 3, 4};
  const int64_t shape[1] = {4};
  const int32_t float64 = 7, host = 0, sum = 1;
  const scalecom_tensor tensor = {values, shape, 1, float64, host, 0, NULL};
  scalecom_ticket* ticket = NULL;
  if (scalecom_all_reduce("values", &tensor, &tensor, sum, 1.0, 1.0, NULL, 0, &ticket) != 0) {
    return fail();
  }
  const int code = scalecom_ticket_wait(ticket, -1.0);
  scalecom_ticket_release(ticket);
  if (code != 0) return fail();
  printf("rank %d of %d: the sum is %.0f %.0f %.0f %.0f\n", topology.rank, topology.size, values[0],
         values[1], values[2], values[3]);
  return scalecom_shutdown();
}
