// A job's events over the WebSocket. After a break it goes on behind the last event that came.

const SILENCE = 40_000; // milliseconds; the server sends a heartbeat every 15 seconds
const LONGEST_PAUSE = 10_000;

export class Feed {
  /** `after`: the number of the last event that is known. `on.event(event)`, `on.job(facts)`, `on.lost()`, `on.back()`, `on.refused(why)`. */
  constructor(id, after, on) {
    this.id = id;
    this.last = after;
    this.on = on;
    this.pause = 500;
    this.ended = false;
    this.connect();
  }

  connect() {
    const address = new URL(`/api/jobs/${encodeURIComponent(this.id)}/events?after=${this.last}`, location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(address);
    this.socket.onmessage = (message) => this.receive(JSON.parse(message.data));
    this.socket.onclose = (closed) => this.closed(closed);
    this.listen();
  }

  receive(told) {
    this.pause = 500;
    this.listen();
    this.on.back();
    if ("job" in told) this.on.job(told.job);
    else if ("n" in told) {
      this.last = told.n;
      this.on.event(told);
    }
  }

  /** Close a connection that is silent for too long: after a sleep of the machine, nobody else says that it is gone. */
  listen() {
    clearTimeout(this.alarm);
    this.alarm = setTimeout(() => this.socket.close(), SILENCE);
  }

  closed({ code, reason }) {
    clearTimeout(this.alarm);
    if (this.ended || code === 1000) return;
    if (code === 1008) {
      this.on.refused(reason || "The server does not show this job to this page: load it again.");
      return;
    }
    this.on.lost();
    this.retry = setTimeout(() => this.connect(), this.pause);
    this.pause = Math.min(2 * this.pause, LONGEST_PAUSE);
  }

  end() {
    this.ended = true;
    clearTimeout(this.alarm);
    clearTimeout(this.retry);
    this.socket.close();
  }
}
