// Answers requests, which hold fields by name, from an exported file, in whichever onnxruntime is given.

export async function answer(ort, model, requests) {
  const session = await ort.InferenceSession.create(model);
  const found = [];
  for (const { fields, tradeoff } of requests) {
    const given = Object.entries(fields).map(([name, field]) => [name, tensor(ort, field)]);
    // the only field is that which the file reads, whatever both are called
    const feeds = given.length > 1 ? Object.fromEntries(given) : { [session.inputNames[0]]: given[0][1] };
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

function tensor(ort, { type, shape, values }) {
  const data = type === "int64" ? BigInt64Array.from(values, BigInt) : Float32Array.from(values);
  return new ort.Tensor(type, data, shape);
}
