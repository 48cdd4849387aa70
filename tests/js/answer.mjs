// Answers requests from an exported file, in whichever onnxruntime is given.

export async function answer(ort, model, requests) {
  const session = await ort.InferenceSession.create(model);
  const found = [];
  for (const { shape, values, tradeoff } of requests) {
    const feeds = { [session.inputNames[0]]: new ort.Tensor("float32", Float32Array.from(values), shape) };
    if (session.inputNames.includes("tradeoff")) {
      // JSON has no NaN: null asks for the certified tradeoff
      feeds.tradeoff = new ort.Tensor("float32", Float32Array.of(tradeoff ?? NaN), []);
    }
    const outputs = await session.run(feeds);
    found.push(
      Object.fromEntries(
        Object.entries(outputs).map(([name, tensor]) => [name, Array.from(tensor.data, Number)]),
      ),
    );
  }
  return found;
}
