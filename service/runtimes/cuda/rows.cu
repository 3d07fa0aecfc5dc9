// Rows of states between the pool and a batch: what a step of a GPU does beside the network. Compiled when the service
// starts, for the device that it finds. blockIdx.y is the row; a row has `floats` numbers.

extern "C" __global__ void gather(float *to, const float *pool, const int *places, int floats)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < floats)
        to[(size_t)blockIdx.y * floats + i] = pool[(size_t)places[blockIdx.y] * floats + i];
}

extern "C" __global__ void scatter(float *pool, const float *source, const int *places, int floats)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < floats)
        pool[(size_t)places[blockIdx.y] * floats + i] = source[(size_t)blockIdx.y * floats + i];
}

extern "C" __global__ void mix(float *pool, const int *places, const float *weights, int floats)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const int *place = places + 4 * blockIdx.y;
    const float *weight = weights + 3 * blockIdx.y;
    if (i < floats)
        pool[(size_t)place[0] * floats + i] = weight[0] * pool[(size_t)place[1] * floats + i] +
                                              weight[1] * pool[(size_t)place[2] * floats + i] +
                                              weight[2] * pool[(size_t)place[3] * floats + i];
}
