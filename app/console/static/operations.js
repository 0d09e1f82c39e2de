// Draws the API's operations at /docs. No validator is asked: it is another host, and many of ours reach none.
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#operations",
  deepLinking: true,
  showExtensions: true,
  validatorUrl: null,
});
