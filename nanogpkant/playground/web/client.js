/** The worker, from the page's side. */

export class Engine {
  /**
   * @param {string} program the engine's source
   * @param {any} given see `makeSession`
   * @param {(problem: string) => void} fail
   */
  constructor(program, given, fail) {
    const address = URL.createObjectURL(new Blob([`${program}\nserve();`], { type: "text/javascript" }));
    this.worker = new Worker(address);
    URL.revokeObjectURL(address);
    this.number = 0;
    /** @type {Map<number, {part: (answer: any) => void, done: (answer: any) => void}>} */
    this.waiting = new Map();
    this.worker.onerror = (event) => fail(event.message || "the worker did not start");
    this.worker.onmessage = ({ data }) => {
      if (data.failed) fail(data.failed);
      const asked = this.waiting.get(data.number);
      if (!asked) return;
      if (!data.done) return asked.part(data);
      this.waiting.delete(data.number);
      asked.done(data.ended ? null : data);
    };
    this.worker.postMessage(given);
  }

  /**
   * Ask for something; a newer request of the same kind ends this one, which is null then.
   * @param {string} kind
   * @param {any} [request]
   * @param {(answer: any) => void} [part] gets what comes before the end
   * @returns {Promise<any>}
   */
  ask(kind, request = {}, part = () => {}) {
    const number = ++this.number;
    return new Promise((done) => {
      this.waiting.set(number, { part, done });
      this.worker.postMessage({ kind, number, ...request });
    });
  }

  /** End what is going on of a kind. @param {string} kind */
  stop(kind) {
    this.worker.postMessage({ kind, number: ++this.number, stop: true });
  }
}
