// What a training program keeps on the device between launches, so that a whole step is one graph: nothing in it goes
// to the host and back. The offsets are a contract with the Go code that writes seed, step and lr before each step and
// reads the rest after it.
#pragma once
#include "device.cuh"

struct State {
    unsigned long long seed; //  0  of the run: dropout
    uint32_t step;           //  8  the optimizer step being taken, counted from 1
    float lr;                // 12  learning rate of this step
    float loss_scale;        // 16  factor on the loss, so that half-precision gradients do not vanish; a power of two, 1 where unused
    uint32_t good_steps;     // 20  updates since loss_scale last changed
    uint32_t hysteresis;     // 24  the overflow, counted from now, that lowers loss_scale
    uint32_t skipped;        // 28  steps that overflowed and updated nothing, over the whole run
    uint32_t diverged;       // 32  the step whose loss or gradient was not finite: no step updates anything after it; 0: none
    uint32_t update;         // 36  whether this step updates the weights: the verdict of adamw_begin
    float factors[9];        // 40  what AdamW multiplies by in this step, in the order of adamw_factors in optimizer.cuh
    float step_scale;        // 76  loss_scale when the step began: the factor on its gradients
};

static_assert(sizeof(State) == 80, "the offsets of State are known to the Go code");
