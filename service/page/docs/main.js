// The page at /docs: Swagger UI over the service's own description.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null, // else the description goes to another host
});
