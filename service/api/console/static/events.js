// Server-sent events of an answer to fetch, which can be a POST and carries headers.

/** The events of a response: {name, data}, the data read as JSON. */
export async function* eventsOf(response) {
  const lines = linesOf(response.body);
  let name = "message";
  let data = [];
  for await (const line of lines) {
    if (line === "") {
      if (data.length > 0) yield { name, data: JSON.parse(data.join("\n")) };
      name = "message";
      data = [];
    } else if (!line.startsWith(":")) {
      const colon = line.indexOf(":");
      const field = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (field === "event") name = value;
      if (field === "data") data.push(value);
    }
  }
}

async function* linesOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield part.endsWith("\r") ? part.slice(0, -1) : part;
  }
}
