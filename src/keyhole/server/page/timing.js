// What a call took: time to the first piece, and how fast the rest came.

export class Timing {
  #now;
  #start;
  #first = null;
  #last = null;
  pieces = 0;

  constructor(now = () => performance.now()) {
    this.#now = now;
    this.#start = now();
  }

  /** A piece of text has come. */
  piece() {
    this.#last = this.#now();
    this.#first ??= this.#last;
    this.pieces += 1;
  }

  /** Milliseconds from the call to its first piece; null before that. */
  get firstMs() {
    return this.#first === null ? null : this.#first - this.#start;
  }

  get elapsedMs() {
    return this.#now() - this.#start;
  }

  /**
   * How many of `count` came per second, once the first piece was there; null where there is
   * nothing to measure. The first piece's share is left out, because its time is `firstMs`.
   */
  rate(count = this.pieces) {
    const seconds = (this.#last - this.#first) / 1000;
    if (this.pieces < 2 || seconds < 0.001) return null;
    return (count * (this.pieces - 1)) / this.pieces / seconds;
  }
}
