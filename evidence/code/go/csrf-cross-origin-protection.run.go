<<CELL>>

// What a browser sends from another site, from the trusted front end, from the site itself, and at the call-back.
func main() {
	inner := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "done") })
	srv := httptest.NewServer(lib.First[http.Handler](protect(inner)))
	ask := func(method, path, site, origin string) int {
		status, _, _, _ := lib.Ask(method, srv.URL+path, "", "Sec-Fetch-Site: "+site, "Origin: "+origin, "Referer: "+origin+"/")
		return status
	}
	evil := ask("POST", "/", "cross-site", "https://example.com.evil.net")
	put := ask("PUT", "/", "cross-site", "https://evil.net")
	app := ask("POST", "/", "same-site", "https://app.example.com")
	own := ask("POST", "/", "same-origin", srv.URL)
	callback := ask("POST", "/oauth/callback", "cross-site", "https://login.example.org")
	lib.Verdict(evil == 403 && put == 403 && app == 200 && own == 200 && callback == 200,
		"POST from example.com.evil.net %d, PUT from evil.net %d, POST from app.example.com %d, same origin %d, call-back %d",
		evil, put, app, own, callback)
}
