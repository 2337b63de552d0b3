// Copies of tiles and what waits for them (sim/hopper.h): the fibers of a block meet here.
#pragma once

#include "sim.h"

namespace async {

void init(tfc_sim::Worker &, unsigned long long *arrival, int count);
void arrive(tfc_sim::Worker &, unsigned long long *arrival, int bytes);
void await(tfc_sim::Worker &, tfc_sim::Fiber &, unsigned long long *arrival, int phase);
void fetch(tfc_sim::Worker &, void *shared, const TensorMap &, unsigned long long *arrival, tfc_sim::TileAt);
void store(tfc_sim::Worker &, tfc_sim::Fiber &, const void *shared, const TensorMap &, tfc_sim::TileAt);
void commit(tfc_sim::Worker &, tfc_sim::Fiber &);
void leave(tfc_sim::Worker &, tfc_sim::Fiber &, int youngest);
void barrier(tfc_sim::Worker &, tfc_sim::Fiber &, int id, int threads);
void bulk_fetch(tfc_sim::Worker &, void *shared, const void *global, int bytes, unsigned long long *arrival);

// clear forgets what a block left, before the next.
void clear(tfc_sim::Worker &);

} // namespace async
