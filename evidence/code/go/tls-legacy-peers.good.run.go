import "crypto/x509"

<<CELL>>

// A server that speaks nothing newer than TLS 1.0 and no key exchange but RSA's.
func main() {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	srv.TLS = &tls.Config{
		MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA},
	}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	usual := http.DefaultTransport.(*http.Transport).Clone()
	usual.TLSClientConfig = &tls.Config{RootCAs: roots}
	_, refused := (&http.Client{Transport: usual}).Get(srv.URL)
	legacyBank.Transport.(*http.Transport).TLSClientConfig.RootCAs = roots
	resp, err := legacyBank.Get(srv.URL)
	version := "none"
	if err == nil {
		version = tls.VersionName(resp.TLS.Version)
	}
	lib.Verdict(err == nil && refused != nil, "this client: %s (%v); the usual one: %v", version, err, strings.TrimPrefix(refused.Error(), "Get \""+srv.URL+"\": "))
}
