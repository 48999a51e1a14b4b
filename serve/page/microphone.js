// The live tab in the browser: records, sends what it hears piece after piece, and appends the text that comes back.
// Gradio runs this with `element`, `props`, `server`, `trigger` and `watch` (see `live.py`); its own streaming
// microphone sends pieces side by side and drops those that come while a session is being opened.

const BLOCK = 1024; // samples
const SEND_EVERY_MS = 200;
const MAX_WAITING_S = 30; // sound that a slow connection may hold up

const EAR = `registerProcessor("ear", class extends AudioWorkletProcessor {
  constructor() { super(); this.block = new Int16Array(${BLOCK}); this.n = 0; }
  process([[channel]]) {
    for (const sample of channel ?? []) {
      this.block[this.n++] = 32767 * Math.max(-1, Math.min(1, sample));
      if (this.n === this.block.length) { this.port.postMessage(this.block); this.n = 0; }
    }
    return true;
  }
});`;

const button = element.querySelector("button");
const label = element.querySelector(".k-mic-label");
const status = element.querySelector(".k-mic-status");

let state = "idle"; // idle, opening, recording, finishing
let recorder = null;
let waiting = []; // blocks that were not sent yet

button.addEventListener("click", () => {
  if (state === "idle") start();
  else if (state === "recording" || state === "opening") stop();
});
watch("opened", () => opened(props.opened));

async function start() {
  become("opening", "Waiting for the microphone …");
  waiting = [];
  try {
    recorder = await record();
  } catch (error) {
    return fail(reason(error));
  }
  say("", "empty");
  trigger("begin", { rate: recorder.rate });
}

async function opened({ session, language, heading, error }) {
  if (!session) {
    silence();
    return fail(error, heading);
  }
  const text = say("", "running", language);
  if (state === "opening") become("recording", "Listening …");
  const began = Date.now();
  for (let over = false; !over; ) {
    if (state === "recording") {
      await new Promise((resolve) => setTimeout(resolve, SEND_EVERY_MS));
      const seconds = Math.floor((Date.now() - began) / 1000);
      status.textContent = `Listening · ${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
    }
    if (state === "recording" && !(element.isConnected && element.offsetParent)) stop(); // the tab was left
    const blocks = waiting.splice(0);
    const end = state === "finishing";
    const answer = await converse({ session, audio: encode(blocks), end });
    append(text, answer.text);
    if (answer.error) complain(answer.error);
    over = answer.over;
  }
  silence();
  finish(text);
}

async function converse(words) {
  try {
    return (await server.converse(words)) ?? lost();
  } catch {
    return lost();
  }
}

const lost = () => ({ text: "", over: true, error: "The connection to the server broke off." });

function stop() {
  silence();
  become("finishing", "Finishing …");
}

async function record() {
  if (!navigator.mediaDevices) throw new Error("Browsers give the microphone only to pages that come over https.");
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const context = new AudioContext();
  const ear = URL.createObjectURL(new Blob([EAR], { type: "text/javascript" }));
  await context.audioWorklet.addModule(ear);
  URL.revokeObjectURL(ear);
  const node = new AudioWorkletNode(context, "ear", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
  node.port.onmessage = ({ data }) => hear(data, context.sampleRate);
  context.createMediaStreamSource(stream).connect(node);
  const end = () => {
    stream.getTracks().forEach((track) => track.stop());
    context.close();
  };
  return { rate: context.sampleRate, end };
}

function hear(block, rate) {
  if (!recorder) return; // a last one, behind the end
  waiting.push(block);
  const loudest = block.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
  button.style.setProperty("--level", (loudest / 32768).toFixed(2));
  if (waiting.length * BLOCK > MAX_WAITING_S * rate) {
    stop();
    waiting = [];
    complain("The connection is too slow for live speech.");
  }
}

function silence() {
  recorder?.end();
  recorder = null;
  button.style.setProperty("--level", 0);
}

function encode(blocks) {
  let bytes = "";
  for (const block of blocks) bytes += String.fromCharCode(...new Uint8Array(block.buffer));
  return btoa(bytes);
}

// What the reader sees

function become(next, message) {
  state = next;
  element.dataset.state = next;
  label.textContent = next === "idle" ? "Start" : "Stop";
  button.disabled = next === "finishing";
  status.textContent = message;
}

const card = () => document.querySelector("#live-text .k-card");

function say(message, kind, language) {
  const text = document.createElement("p");
  if (language) {
    text.className = "k-text";
    text.lang = language;
  }
  text.textContent = message;
  card().className = `k-card k-${kind}`;
  card().replaceChildren(text);
  return text;
}

function append(text, piece) {
  const atEnd = card().scrollHeight - card().scrollTop - card().clientHeight < 40;
  text.append(piece);
  if (atEnd) card().scrollTop = card().scrollHeight;
}

function complain(message) {
  const note = document.createElement("p");
  note.className = "k-trouble";
  note.textContent = message;
  card().append(note);
}

function finish(text) {
  become("idle", "");
  card().classList.replace("k-running", "k-done");
  if (!text.textContent && card().children.length === 1) say("No speech was heard.", "empty");
}

function fail(message, heading = "That did not work") {
  become("idle", "");
  say(message, "error");
  const above = document.createElement("h2");
  above.textContent = heading;
  card().prepend(above);
}

function reason(error) {
  if (error.name === "NotAllowedError") return "The browser does not let this page use the microphone.";
  if (error.name === "NotFoundError") return "No microphone was found.";
  return error.message;
}

become("idle", "");
