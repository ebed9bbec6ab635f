// @ts-check
// What the application holds, behind somebody's Proxy. Owns that it works there: a method that is called on a Proxy finds no private
// members of the object behind it, so each is bound to its own object.

/**
 * For the end of a constructor.
 *
 * @param {object} object
 */
export const bindAll = (object) => {
  const members = Object.getOwnPropertyDescriptors(Object.getPrototypeOf(object));
  for (const name of Reflect.ownKeys(members)) {
    const { value, get } = members[/** @type {string} */ (name)];
    if (name !== "constructor") {
      const bound = get ? { get: get.bind(object) } : { value: value.bind(object), writable: true };
      Object.defineProperty(object, name, { configurable: true, ...bound });
    }
  }
  // Vue: nothing in it is to be watched.
  Object.defineProperty(object, "__v_skip", { value: true, configurable: true });
};
