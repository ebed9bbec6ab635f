import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";

const secret = readFileSync("secret", "utf8").trim();
const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

export const harkToken = (user) => {
  const iat = Math.floor(Date.now() / 1000);
  const claims = { iss: "https://app.example", aud: "hark", sub: user, iat, exp: iat + 300 };
  const signed = `${part({ alg: "HS256" })}.${part(claims)}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
};
