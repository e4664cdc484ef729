// MQTT.js in Node plays every scene: mqttjs_client.mjs URL. FLUXMQ_NODE_MODULES is the folder that has the package.
import { createRequire } from "node:module";
import { play } from "./scenes.mjs";

const mqtt = createRequire(`${process.env.FLUXMQ_NODE_MODULES}/`)("mqtt");
play(mqtt, process.argv[2], console.log).then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
